// What the CUDA part says of itself; free of CUDA headers, so that the bindings need none.
#pragma once

namespace verifix {

struct CudaMachine {
    int runtime_version;  // of the CUDA run-time library inside the extension, as 1000 * major + 10 * minor
    int driver_version;   // likewise, the newest CUDA that the driver supports; 0: there is no driver
    int devices;          // 0 where there is no driver or no GPU
};

CudaMachine cuda_machine();

}  // namespace verifix
