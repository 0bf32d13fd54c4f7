from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

import verifix as vx
from tests.train.examples import digits, network, settings
from verifix.bounds import NAMED, Engine, parse_method
from verifix.errors import InvalidValue
from verifix.graph import Graph
from verifix.operations import Dense
from verifix.train import TrainSettings, robust_logits, robust_loss
from verifix.train.batch_norm import CleanStatistics
from verifix.train.log import MEASURED
from verifix.train.objective import Objective, require_linear_end

X = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([0, 2, 1])


def small(seed: int = 0) -> nn.Sequential:
    """Convolution, and a hidden layer with units of every kind at radius 0.2, in float64."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 3))
    return nn.Sequential(*layers).double()


def margins(graph: Graph, inputs: Any, method: vx.bounds.Method) -> Tensor:
    """Lower bounds of ``f_y - f_j`` for every ``j``, by the engine itself, with nothing shared and nothing recorded."""
    rows = F.one_hot(Y, 3)[:, None] - torch.eye(3, dtype=torch.int64)
    with torch.no_grad():
        engine = Engine(graph, inputs, method, rounding=False, native=False)
        return engine.rows(graph.output, rows.double(), upper=False)[0]


class TestMixedLogits:
    @pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("method", [*NAMED, "both:zero", "filtered:same", "interval:random:p=0.2:q=0.7"])
    def test_are_the_bounds_of_the_engine(self, method: str, beta: float) -> None:
        graph, inputs = vx.capture(small(), X), vx.Ball("linf", 0.2, (0, 1)).around(X)
        (choice,) = parse_method(method)
        expected = -beta * margins(graph, inputs, choice) - (1 - beta) * margins(graph, inputs, NAMED["ibp"])
        expected[torch.arange(3), Y] = 0.0
        assert float((margins(graph, inputs, choice) - margins(graph, inputs, NAMED["ibp"])).abs().max()) > 0.01 or (
            method == "ibp"
        )
        for recorded in (True, False):
            with torch.set_grad_enabled(recorded):
                found = robust_logits(graph, Y, inputs, method, beta=beta)
                loss = robust_loss(graph, Y, inputs, method, beta=beta)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(loss, F.cross_entropy(expected, Y), rtol=1e-12, atol=1e-12)

    def test_written_down_by_hand(self) -> None:
        """One hidden layer: intervals, and CROWN's lines on them, in a few lines of arithmetic."""
        torch.manual_seed(3)
        first, last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
        x = torch.rand(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        eps, beta = 0.3, 0.4
        center, spread = first(x), eps * first.weight.abs().sum(1)
        lower, upper = center - spread, center + spread
        assert ((lower < 0) & (upper > 0)).any() and (lower > 0).any()
        ends = lower.clamp(min=0), upper.clamp(min=0)
        slope = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, upper / (upper - lower)))
        below = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, (upper > -lower).double()))
        expected = torch.zeros(3, 3, dtype=torch.float64)
        for i in range(3):
            for j in range(3):
                row = last.weight[j] - last.weight[Y[i]]
                bias = last.bias[j] - last.bias[Y[i]]
                interval = torch.where(row > 0, row * ends[1][i], row * ends[0][i]).sum() + bias
                chosen = torch.where(row > 0, slope[i], below[i])
                offset = torch.where(row > 0, -slope[i] * lower[i].clamp(max=0), 0.0)
                form = (row * chosen) @ first.weight
                line = form @ x[i] + eps * form.abs().sum() + (row * (chosen * first.bias + offset)).sum() + bias
                expected[i, j] = beta * line + (1 - beta) * interval
        graph = vx.capture(nn.Sequential(first, nn.ReLU(), last), x)
        found = robust_logits(graph, Y, vx.Ball("linf", eps).around(x), "crown-ibp", beta=beta)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("method", ["crown-ibp", "tight-smooth", "cap-ibp"])
    def test_share_the_interval_pass_and_take_no_pass_for_nothing(
        self, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        graph, inputs = vx.capture(small(), X), vx.Ball("linf", 0.2).around(X)
        intervals = counted(monkeypatch, Dense, "absolute")
        shapes: dict[float, tuple[int, int]] = {}
        supports = counted(monkeypatch, type(inputs), "least")  # a pass that reaches the input asks for it
        for beta in (1.0, 0.5, 0.0):
            del intervals[:], supports[:]
            robust_logits(graph, Y, inputs, method, beta=beta)
            shapes[beta] = len(intervals), len(supports)
        assert shapes[1.0][0] == shapes[0.5][0] == shapes[0.0][0] == 1  # of the one hidden dense layer
        assert shapes[1.0][1] == shapes[0.5][1] > 0
        assert shapes[0.0][1] == 0

    def test_of_several_bounds_the_best_is_mixed(self) -> None:
        graph, inputs = vx.capture(small(), X), vx.Ball("linf", 0.2).around(X)
        ibp, cap, crown = (robust_logits(graph, Y, inputs, name) for name in ("ibp", "cap", "crown-ibp"))
        found = robust_logits(graph, Y, inputs, "cap+crown-ibp", beta=0.25)
        torch.testing.assert_close(found, 0.25 * torch.minimum(cap, crown) + 0.75 * ibp, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
    def test_a_weight_that_is_none(self, beta: float) -> None:
        graph, inputs = vx.capture(small(), X), vx.Ball("linf", 0.2).around(X)
        with pytest.raises(InvalidValue, match=r"beta = .*: must lie within \[0, 1\]"):
            robust_logits(graph, Y, inputs, "crown-ibp", beta=beta)


def counted(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[None]:
    """A list that grows with every call of a method."""
    calls: list[None] = []
    method: Callable[..., Any] = getattr(kind, name)

    def watch(*args: Any, **options: Any) -> Any:
        calls.append(None)
        return method(*args, **options)

    monkeypatch.setattr(kind, name, watch)
    return calls


def objective(model: nn.Module, how: TrainSettings) -> Objective:
    return Objective(model, vx.capture(model, X), how, CleanStatistics(None), every_parameter=False)


class TestObjective:
    @pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
    def test_gradients(self, beta: float, kappa: float) -> None:
        model = small()
        how = settings(eps=0.2, beta=(beta, beta), kappa=(kappa, kappa), l1=0.01, box=None)
        of = objective(model, how)
        # gradcheck moves the parameters in place, and the graph reads them anew
        assert gradcheck(lambda *_: of(X, Y, 0.2, 0)[0], tuple(model.parameters()))

    @pytest.mark.parametrize(
        "changes",
        [
            {"beta": (1, 0), "kappa": (1, 0.5)},
            {"beta": (0.2, 0.9)},
            {"kappa": (0, 0.5), "l1": 0.01},
            {"method": "cap", "beta": (0, 1), "kappa": (0.3, 0)},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("part", [0.25, 1.0])
    def test_is_its_formula_on_the_way_and_at_the_end(self, changes: dict[str, Any], part: float) -> None:
        model, how = small(), settings(eps=0.2, box=None, **changes)
        graph, eps = vx.capture(model, X), 0.2 * part
        beta, kappa = ((1 - part) * pair[0] + part * pair[1] for pair in (how.beta, how.kappa))
        plain = F.cross_entropy(model(X), Y).detach()
        inputs = vx.Ball("linf", eps).around(X)
        worst = -beta * margins(graph, inputs, parse_method(how.method)[0])
        worst = worst - (1 - beta) * margins(graph, inputs, NAMED["ibp"])
        robust = F.cross_entropy(worst, Y)
        weights = sum(float(p.detach().abs().sum()) for p in model.parameters() if p.dim() > 1)
        expected = float(kappa * plain + (1 - kappa) * robust) + how.l1 * weights
        loss, measured = objective(model, how)(X, Y, eps, 0)
        found = {name: float(value) / 3 for name, value in zip(MEASURED, measured, strict=True)}
        assert float(loss.detach()) / 3 == pytest.approx(expected, rel=1e-12)
        assert found["objective"] == pytest.approx(expected, rel=1e-12)
        assert found["loss"] == pytest.approx(float(plain), rel=1e-12)
        assert found["robust_loss"] == pytest.approx(float(robust), rel=1e-12)
        errors = [int((model(X).argmax(1) != Y).sum()), int((worst.scatter(1, Y[:, None], -1) >= 0).any(1).sum())]
        assert [found["errors"] * 3, found["robust_errors"] * 3] == pytest.approx(errors)

    @pytest.mark.parametrize("changes", [{}, {"beta": (1, 0), "kappa": (0.2, 0.5)}, {"method": "cap"}], ids=str)
    def test_at_radius_0_it_is_the_plain_cross_entropy_and_nothing_is_bounded(
        self, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: Any, **__: Any) -> None:
            raise AssertionError("no bounds at radius 0")

        model = small()
        of = objective(model, settings(eps=0.2, **changes))
        # bounds at a tiny radius tend to that value
        near = of(X, Y, 1e-12, 0)[0]
        monkeypatch.setattr(Engine, "rows", never)
        loss, measured = of(X, Y, 0.0, 0)
        assert torch.equal(loss, F.cross_entropy(model(X), Y, reduction="sum"))
        assert float(near.detach()) == pytest.approx(float(loss.detach()), rel=1e-9)
        found = dict(zip(MEASURED, measured.tolist(), strict=True))
        assert found["loss"] == found["objective"] == pytest.approx(found["robust_loss"], rel=1e-14)
        assert found["errors"] == found["robust_errors"]

    @pytest.mark.parametrize(("kappa", "recorded"), [(0.0, False), (0.5, True), (1.0, True)])
    def test_the_clean_pass_is_recorded_where_it_counts(
        self, kappa: float, recorded: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[bool] = []
        clean = Engine.clean

        def watch(engine: Engine) -> Tensor:
            answer = clean(engine)
            seen.append(answer.requires_grad)
            return answer

        of = objective(small(), settings(eps=0.2, kappa=(kappa, kappa)))
        monkeypatch.setattr(Engine, "clean", watch)
        of(X, Y, 0.2, 0)
        assert seen == [recorded]

    def test_regularisers_have_gradients_whatever_the_bounds_count(self) -> None:
        """They are about hidden bounds, and so is the only thing that pulls differently here."""
        model = small()
        pulls = []
        for weight in (0.0, 0.5):
            how = settings(eps=0.2, kappa=(1, 1), regulariser=weight)
            loss = objective(model, how)(X, Y, 0.1, 0)[0]
            pulls.append(torch.cat([pull.flatten() for pull in torch.autograd.grad(loss, list(model.parameters()))]))
        assert (pulls[1] - pulls[0]).abs().max() > 1e-3

    def test_a_batch_in_parts_has_the_objective_of_the_whole(self) -> None:
        """Sums over parts, empty ones too: what no example has counts once."""
        model = small()
        of = objective(model, settings(eps=0.2, beta=(0.5, 0.5), kappa=(0.5, 0.5), l1=0.1))

        def gradients(*parts: slice) -> list[Tensor]:
            model.zero_grad()
            for part in parts:
                of(X[part], Y[part], 0.2, 0)[0].backward()
            return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

        whole, cut = gradients(slice(3)), gradients(slice(1), slice(1, 1), slice(1, 3))
        for one, other in zip(whole, cut, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)

    def test_l1_is_of_weights_and_not_of_biases(self) -> None:
        model = small()
        plain, heavy = (objective(model, settings(eps=0.2, l1=l1))(X, Y, 0.2, 0)[0] for l1 in (0.0, 0.5))
        pulls = torch.autograd.grad(heavy - plain, list(model.parameters()))
        for parameter, pull in zip(model.parameters(), pulls, strict=True):
            expected = 3 * 0.5 * parameter.sign() if parameter.dim() > 1 else torch.zeros_like(parameter)
            torch.testing.assert_close(pull, expected.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "method", "estimator"),
    [("linf", method, "exact") for method in ("ibp", "crown-ibp", "tight-smooth", "interval:random", "cap", "crown")]
    + [("linf", "cap", "median:2"), ("l1", "cap", "median:2"), ("l2", "cap", "gaussian:2")],
)
def test_what_a_step_computes_goes_without_a_garbage_collector(norm: str, method: str, estimator: str) -> None:
    """Else memory would grow from step to step, until the collector happens to run."""
    model = network()
    x, y = digits(3).images, digits(3).labels
    of_cap = {"estimator": estimator} if method == "cap" else {}
    how = TrainSettings(eps=0.1, norm=norm, method=method, **of_cap)
    objective = Objective(model, vx.capture(model, x), how, CleanStatistics(None), every_parameter=False)
    objective(x, y, 0.1, 0)[0].backward()  # what is loaded or kept at the first time is no garbage
    gc.collect()
    gc.disable()
    try:
        objective(x, y, 0.1, 0)[0].backward()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [found for found in gc.garbage if isinstance(found, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


class TestLinearEnd:
    @pytest.mark.parametrize(
        "end", [(), (nn.BatchNorm1d(10),), (nn.Unflatten(1, (2, 5)), nn.Flatten())], ids=["dense", "scaled", "moved"]
    )
    def test_taken(self, end: tuple[nn.Module, ...]) -> None:
        require_linear_end(vx.capture(nn.Sequential(network(), *end).eval(), digits().images[:1]))

    def test_a_network_that_only_moves_its_inputs(self) -> None:
        require_linear_end(vx.capture(nn.Flatten(), X))

    @pytest.mark.parametrize(
        ("end", "node"),
        [((nn.ReLU(),), "1"), ((nn.Sigmoid(),), "1"), ((nn.ReLU(), nn.Unflatten(1, (2, 5)), nn.Flatten()), "1")],
        ids=["relu", "sigmoid", "moved"],
    )
    def test_refused_before_anything_is_written(self, end: tuple[nn.Module, ...], node: str, tmp_path: Any) -> None:
        model = nn.Sequential(network(), *end)
        pattern = rf"^model = a network whose last operation, node '{node}', is not linear: bounds need a linear one"
        with pytest.raises(InvalidValue, match=pattern) as caught:
            vx.train.train(model, digits(), settings(), out=tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_standard_training_asks_for_no_such_end(self) -> None:
        model = nn.Sequential(network(), nn.Sigmoid())
        vx.train.train(model, digits(), settings(method="none", eps=0.0, epochs=1))


@pytest.mark.parametrize("count", [1, 3])
def test_labels_are_one_for_each_input(count: int) -> None:
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.zeros(4, 2), torch.zeros(count, dtype=torch.int64)
    with pytest.raises(InvalidValue, match=f"^y = {count} labels: pass one for each of the 4 inputs"):
        robust_logits(vx.capture(model, x), y, vx.Ball("linf", eps=0.1).around(x), "ibp")
