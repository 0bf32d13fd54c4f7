#include <cuda_runtime_api.h>

#include "verifix/cuda.h"

namespace verifix {

CudaMachine cuda_machine() {
    CudaMachine machine{0, 0, 0};
    if (cudaRuntimeGetVersion(&machine.runtime_version) != cudaSuccess) machine.runtime_version = 0;
    if (cudaDriverGetVersion(&machine.driver_version) != cudaSuccess) machine.driver_version = 0;
    if (cudaGetDeviceCount(&machine.devices) != cudaSuccess) machine.devices = 0;
    cudaGetLastError();  // no driver is an answer here, not an error for the next launch to report
    return machine;
}

}  // namespace verifix
