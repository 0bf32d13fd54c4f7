"""Unions of threat models: membership, projection, support, and certificates over them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from verifix import certify
from verifix.attack import PGD, WorstOf
from verifix.bounds import Estimator, bounds, parse_method
from verifix.errors import InvalidType, InvalidValue
from verifix.sets import Ball, Box, Union, UnionSet, Wasserstein

THREE = Union(Ball("linf", 0.2, (0, 1)), Ball("l2", 0.4, (0, 1)), Ball("l1", 0.7, (0, 1)))


@st.composite
def unions(draw: st.DrawFn) -> tuple[UnionSet, Tensor, torch.Generator]:
    """Unions around up to three inputs of up to five numbers, with points near them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n, d = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    box = draw(st.sampled_from([None, (0, 1)]))
    norms = draw(st.lists(st.sampled_from(["linf", "l2", "l1"]), min_size=1, max_size=3))
    radii = (1.2 * torch.rand(len(norms), n, generator=generator, dtype=torch.float64)).clamp(min=0.1)
    union = Union(*(Ball(norm, eps, box) for norm, eps in zip(norms, radii, strict=True)))
    points = x + 0.6 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return union.around(x), points, generator


@pytest.mark.parametrize("method", ["project", "contains", "distance"])
@pytest.mark.parametrize(
    "sets",
    [
        Ball("l2", 0.5, (0, 1)),
        Union(Ball("linf", 0.5), Ball("l1", 1.0)),
        Box(torch.zeros(2, 1, 3), torch.ones(2, 1, 3)),
    ],
    ids=["ball", "union", "box"],
)
def test_points_that_cannot_be(sets: Ball | Union | Box, method: str) -> None:
    """One line each; nothing is broadcast."""
    x = torch.rand(2, 1, 3, generator=torch.Generator().manual_seed(0))
    call = getattr(sets if isinstance(sets, Box) else sets.around(x), method)
    call(x.double())
    for wrong in (x[:1], x[:, 0], x[None], x[:, :, :2], x[:0]):
        with pytest.raises(InvalidValue, match=r"^x = tensor of shape .*: must be \(2, 1, 3\)$"):
            call(wrong)
    for kind in (x.long(), x > 0, x.cfloat()):
        with pytest.raises(InvalidType, match=r"^x is a Tensor: pass a floating-point tensor, not torch"):
            call(kind)
    for other in (x.tolist(), x.numpy(), None):
        with pytest.raises(InvalidType, match=r"^x is a .*: pass a torch.Tensor of shape \(2, 1, 3\)$"):
            call(other)


class TestSets:
    @examples(max_examples=40)
    @given(unions())
    def test_a_point_lies_in_it_where_it_lies_in_a_member(self, case: tuple[UnionSet, Tensor, torch.Generator]) -> None:
        sets, points, _ = case
        expected = [any(bool(member.contains(points)[i]) for member in sets.members) for i in range(len(sets))]
        assert sets.contains(points).tolist() == expected
        assert sets.contains(sets.center).all()

    @examples(max_examples=40)
    @given(unions())
    def test_no_member_is_nearer_than_the_projection(self, case: tuple[UnionSet, Tensor, torch.Generator]) -> None:
        sets, points, _ = case
        found = sets.project(points)
        assert sets.contains(found).all()
        lengths = (found - points).norm(dim=1)
        each = torch.stack([(member.project(points) - points).norm(dim=1) for member in sets.members])
        torch.testing.assert_close(lengths, each.amin(0), rtol=0, atol=0)

    @examples(max_examples=40)
    @given(unions())
    def test_support_is_above_every_point_and_reached(self, case: tuple[UnionSet, Tensor, torch.Generator]) -> None:
        sets, _, generator = case
        rows = torch.randn(1, 4, *sets.shape, generator=generator, dtype=torch.float64)
        support = sets.support(rows)
        torch.testing.assert_close(support, torch.stack([member.support(rows) for member in sets.members]).amax(0))
        for _ in range(5):
            noise = torch.randn(sets.center.shape, generator=generator, dtype=torch.float64)
            values = (rows * sets.project(sets.center + noise)[:, None]).sum(2)
            assert (values <= support + 1e-9).all()
        # far along a row the projection comes near the maximiser of the member in which it lands; of one is the largest
        far = [
            torch.stack([member.project(sets.center + 1e7 * rows[:, r]) for r in range(4)], 1)
            for member in sets.members
        ]
        reached = torch.stack([(rows * points).sum(2) for points in far]).amax(0)
        torch.testing.assert_close(reached, support, rtol=0, atol=1e-5)

    @examples(max_examples=40)
    @given(unions())
    def test_hull_holds_every_member_and_no_more(self, case: tuple[UnionSet, Tensor, torch.Generator]) -> None:
        sets, _, _ = case
        lower, upper = sets.hull()
        d = sets.center.shape[1]
        rows = torch.cat([torch.eye(d), -torch.eye(d)]).double()[None]
        support = sets.support(rows)
        torch.testing.assert_close(support[:, :d], upper)
        torch.testing.assert_close(-support[:, d:], lower)

    @examples(max_examples=40)
    @given(unions(), st.floats(0.3, 3.0))
    def test_distance_is_the_factor_at_which_it_is_reached(
        self, case: tuple[UnionSet, Tensor, torch.Generator], factor: float
    ) -> None:
        sets, points, _ = case
        distance = sets.distance(points)
        members = [member.with_eps(member.eps.flatten() * factor) for member in sets.members]
        free = [Ball(member.norm, member.eps.flatten()).around(member.center) for member in members]
        inside = UnionSet(free).contains(points)
        clear = (distance / factor - 1).abs() > 1e-9
        assert torch.equal(inside[clear], (distance <= factor)[clear])
        assert (sets.distance(sets.center) == 0).all()

    def test_distance_in_a_ball_of_radius_zero(self) -> None:
        sets = Union(Ball("linf", 0.0)).around(torch.zeros(2, 2))
        assert sets.distance(torch.tensor([[0.0, 0.0], [0.0, 1e-3]])).tolist() == [0.0, torch.inf]

    def test_some_of_the_inputs_and_other_types(self) -> None:
        x = torch.rand(3, 4)
        sets = THREE.around(x)
        points = (x + 0.15).clamp(max=1)
        some = sets.select(torch.tensor([2, 0]))
        assert torch.equal(some.center, x[[2, 0]])
        assert torch.equal(some.distance(points[[2, 0]]), sets.distance(points)[[2, 0]])
        double = sets.to(torch.float64)
        assert double.center.dtype == torch.float64 and double.members[2].norm == "l1"
        assert (double.magnitude() >= torch.stack([member.magnitude() for member in double.members])).all()

    def test_the_nearer_member_is_chosen(self) -> None:
        """Along an axis l1 reaches furthest, along the diagonal l_inf."""
        sets = Union(Ball("linf", 0.5), Ball("l1", 0.8)).around(torch.zeros(2, 2))
        found = sets.project(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        torch.testing.assert_close(found, torch.tensor([[0.8, 0.0], [0.5, 0.5]]))

    def test_with_a_wasserstein_ball(self) -> None:
        x = torch.zeros(1, 1, 1, 3)
        x[..., 1] = 1.0
        sets = Union(Ball("linf", 0.1, (0, 1)), Wasserstein(0.5, window=3)).around(x)
        row = torch.tensor([[[[0.0, 0.0, 2.0]]]])[None]
        torch.testing.assert_close(sets.support(row), torch.tensor([[1.0]]))  # half of the mass, not 0.1


class TestThreat:
    def test_spelling(self) -> None:
        union = Union.parse(" linf:0.3, L2:3/2,1:12", (0, 1))
        assert [(ball.norm, ball.eps, ball.box) for ball in union.members if isinstance(ball, Ball)] == [
            ("linf", 0.3, (0, 1)),
            ("l2", 1.5, (0, 1)),
            ("l1", 12.0, (0, 1)),
        ]
        assert [ball.eps for ball in union.scaled(0.5).members] == [0.15, 0.75, 6.0]
        assert union.settings()["members"][1] == {"norm": "l2", "eps": 1.5, "box": [0, 1]}

    @pytest.mark.parametrize("text", ["", "linf", "linf:", "linf:x", "linf:-1", "linf:1/0", "linf:0.1,", "linf:nan"])
    def test_no_spelling(self, text: str) -> None:
        with pytest.raises(InvalidValue, match=r"^union = .*needs norms and radii, such as linf:0.3,l2:1.5,l1:12"):
            Union.parse(text)

    def test_unknown_norm(self) -> None:
        with pytest.raises(InvalidValue, match=r"^norm = .l3.: choose one of linf, l2, l1"):
            Union.parse("l3:1")

    def test_no_members(self) -> None:
        with pytest.raises(InvalidValue, match=r"members = .*name at least one"):
            Union()
        with pytest.raises(InvalidValue, match=r"members = .*name at least one"):
            UnionSet([])

    @pytest.mark.parametrize("member", [0.3, "linf:0.3", THREE])
    def test_what_is_no_member(self, member: Any) -> None:
        with pytest.raises(InvalidType, match=r"^members is"):
            Union(Ball("linf", 0.1), member)

    def test_members_around_other_inputs(self) -> None:
        with pytest.raises(InvalidValue, match="must be sets around the same inputs"):
            UnionSet([Ball("l2", 1.0).around(torch.zeros(1, 2)), Ball("l2", 1.0).around(torch.ones(1, 2))])


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


class TestCertificates:
    @pytest.mark.parametrize("method", ["ibp", "crown", "cap+crown"])
    def test_hold_over_every_member_and_are_as_tight(self, method: str) -> None:
        model, union = _network(0), THREE.scaled(0.4)
        x = torch.rand(40, 6)
        y = model(x).argmax(1)
        y[:5] = (y[:5] + 1) % 3
        found = certify(model, x, y, union, method)
        each = [certify(model, x, y, member, method) for member in union.members]
        expected = [
            "falsified" if "falsified" in all_ else "verified" if set(all_) == {"verified"} else "unknown"
            for all_ in zip(*(result.verdicts.tolist() for result in each), strict=True)
        ]
        assert found.verdicts.tolist() == expected
        assert method == "ibp" or {"verified", "unknown", "falsified"} == set(expected)

    @examples(max_examples=5)
    @given(st.integers(0, 1000))
    def test_no_attack_breaks_them(self, seed: int) -> None:
        model, union = _network(seed), THREE.scaled(0.3)
        x = torch.rand(30, 6, generator=torch.Generator().manual_seed(seed))
        y = model(x).argmax(1)
        verified = torch.from_numpy(certify(model, x, y, union).verdicts == "verified")
        broken = WorstOf(attacks=(PGD(steps=10),))(model, x, y, union).success
        assert not (verified & broken).any()

    def test_bounds_over_the_set_hold_too(self) -> None:
        model, x = _network(3), torch.rand(5, 6)
        sets = THREE.around(x)
        lower, upper = bounds(model, sets, "crown")
        for member in sets.members:
            low, high = bounds(model, member, "crown")
            middle = model(member.project(x + 0.3))
            assert (lower <= middle).all() and (middle <= upper).all()
            assert ((low + high) / 2 <= upper).all() and ((low + high) / 2 >= lower).all()

    def test_methods_that_may_fail_refuse(self) -> None:
        method = parse_method("cap", Estimator("geometric", 120, delta=0.05, seed=3))
        x = torch.rand(2, 6)
        with pytest.raises(InvalidValue, match="geometric"):
            certify(_network(0), x, torch.zeros(2, dtype=torch.int64), THREE, method)
