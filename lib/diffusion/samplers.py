"""Samplers as values: what decides how a dose is sampled, and the algorithm that does it.

    denoise     (x_t, t [B] int64) -> (dose_hat, noise_hat), of a diffusion (lib.diffusion.schedule)
    velocity    (x_t, t [B] float) -> velocity_hat, of a flow (lib.diffusion.flow)
    noise       [B,1,D,H,W], the state at the first time; as are all states and estimates
    alpha_bar   float64 [T], with _t and _s at the time of a step and at the next
    bounds      (lo, hi) of dose_hat, numbers or tensors
    shift       of a flow: the times are moved by it (lib.diffusion.flow.shift_time)
    generator   of the noise that DDIM draws if eta > 0
    watch       called with (step, t, dose_hat) after each network call

`sample` returns the dose [B,1,D,H,W]; it calls the network `nfe` times, at `times()`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import count, pairwise

import torch
from torch import Generator, Tensor

from lib.diffusion.flow import shift_time
from lib.diffusion.parameterisation import noise_from_dose
from lib.diffusion.schedule import T, weights
from lib.errors import UserError
from lib.seeds import normal

CLAMPS = ("keep noise", "rederive noise", "none")


def leading_grid(n_steps: int, n_levels: int = T) -> list[int]:
    """The reference study's times: every (T // n)-th from 0, descending; over n where n does not divide T."""
    return list(range(0, n_levels, n_levels // n_steps))[::-1]


def corrected_grid(n_steps: int, n_levels: int = T) -> list[int]:
    """Leading times, exactly n of them: i T / n rounded down, descending. Its start still depends on n."""
    return [i * n_levels // n_steps for i in range(n_steps)][::-1]


def held_grid(n_steps: int, n_levels: int = T) -> list[int]:
    """Exactly n times, evenly spaced, the first always the last level; of all T levels the "trailing" ones of
    Lin et al. 2024 (arXiv 2305.08891, Table 2)."""
    return [round(n_levels * (1 - i / n_steps)) - 1 for i in range(n_steps)]


GRIDS = {"leading": leading_grid, "corrected": corrected_grid, "held": held_grid}


@dataclass(frozen=True)
class Sampler:
    """What all samplers share: the number of steps decides the times of the network calls.

    `title` is what tells a class from the usual one in words. (It carries no type, or it were a field.)
    """

    title = ""
    n_steps: int

    @property
    def nfe(self) -> int:
        """Network calls that a sample takes."""
        return len(self.times())


@dataclass(frozen=True)
class DiffusionSampler(Sampler):
    """What DDIM and DPMSolver share: all but the step from one level to the next, at last to alpha_bar = 1.

    grid    "leading" (the reference's), "corrected" (leading, as many as asked) or "held" (`start` is first)
    clamp   of dose_hat: "keep noise" (the reference's), "rederive noise" (made to agree with it) or "none"
    """

    grid: str = "held"
    start: int = T - 1
    clamp: str = "rederive noise"

    def __post_init__(self):
        check_known("step grid", self.grid, GRIDS)
        check_known("clamp", self.clamp, CLAMPS)

    def times(self) -> list[int]:
        n_levels = self.start + 1 if self.grid == "held" else T
        check_steps(self.n_steps, n_levels)
        return GRIDS[self.grid](self.n_steps, n_levels)

    def sample(
        self,
        denoise: Callable,
        noise: Tensor,
        alpha_bar: Tensor,
        bounds: tuple = (-1.0, 2.0),
        generator: Generator | None = None,
        watch: Callable | None = None,
    ) -> Tensor:
        times, x_t, before = self.times(), noise, None
        ends = [alpha_bar[t] for t in times[1:]] + [torch.ones((), dtype=torch.float64)]
        for step, (t, alpha_bar_s) in enumerate(zip(times, ends)):
            dose_hat, noise_hat = denoise(x_t, torch.full((len(x_t),), t, device=x_t.device))
            if self.clamp != "none":
                dose_hat = dose_hat.clamp(*bounds)
            if self.clamp == "rederive noise":
                noise_hat = noise_from_dose(x_t, dose_hat, *weights(alpha_bar[t]))
            if watch:
                watch(step, t, dose_hat)
            x_s = self.step(x_t, dose_hat, noise_hat, alpha_bar[t], alpha_bar_s, before, generator)
            x_t, before = x_s.to(noise.dtype), (dose_hat, alpha_bar[t])
        return x_t


@dataclass(frozen=True)
class DDIM(DiffusionSampler):
    """DDIM (Song et al. 2021, arXiv 2010.02502); eta 0 is deterministic, 1 DDPM's ancestral sampling."""

    eta: float = 0.0

    def step(self, x_t, dose_hat, noise_hat, alpha_bar_t, alpha_bar_s, before, generator):
        """x_s by Eq. 12, with the noise of Eq. 16."""
        variance = (1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)  # of DDPM
        sigma_eta = self.eta * variance.sqrt()
        share = (1 - alpha_bar_s - sigma_eta**2).clamp(min=0).sqrt()
        x_s = alpha_bar_s.sqrt() * dose_hat + share * noise_hat
        if self.eta == 0:
            return x_s
        return x_s + sigma_eta * normal(x_s.shape, generator, x_s.device, x_s.dtype)


@dataclass(frozen=True)
class DPMSolver(DiffusionSampler):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): second order, one call a step.

    With lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)) the dose estimate is extrapolated over a step h
    of lambda from this and the call before. The first step and the one to alpha_bar = 1, where h is infinite,
    are of first order.
    """

    title = "second order"

    def step(self, x_t, dose_hat, noise_hat, alpha_bar_t, alpha_bar_s, before, generator):
        h = half_log_snr(alpha_bar_s) - half_log_snr(alpha_bar_t)
        if before is not None and torch.isfinite(h):
            dose_before, alpha_bar_before = before
            h_before = half_log_snr(alpha_bar_t) - half_log_snr(alpha_bar_before)
            dose_hat = dose_hat + h / (2 * h_before) * (dose_hat - dose_before)  # r = h_before / h
        ratio = ((1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt()
        return ratio * x_t + (alpha_bar_s.sqrt() - ratio * alpha_bar_t.sqrt()) * dose_hat


@dataclass(frozen=True)
class Euler(Sampler):
    """A flow's velocity integrated from t = 0 to 1 by steps of first order, one call each.

    `stages`: how far of a step each call's velocity leads from where the step began.
    """

    title, stages = "Euler", (1.0,)

    def times(self) -> list[float]:
        check_steps(self.n_steps)
        ahead = (0.0, *self.stages[:-1])
        return [(step + a) / self.n_steps for step in range(self.n_steps) for a in ahead]

    def sample(
        self, velocity: Callable, noise: Tensor, shift: float = 1.0, watch: Callable | None = None
    ) -> Tensor:
        bounds = [shift_time(t, shift) for t in [*self.times()[:: len(self.stages)], 1.0]]
        ahead, x_t, calls = (0.0, *self.stages[:-1]), noise, count()
        for t_start, t_end in pairwise(bounds):
            start, length = x_t, t_end - t_start
            for a, stage in zip(ahead, self.stages):
                t = t_start + a * length
                velocity_hat = velocity(x_t, x_t.new_full((len(x_t),), t))
                if watch:
                    watch(next(calls), t, x_t + (1 - t) * velocity_hat)  # where the straight path ends
                x_t = start + stage * length * velocity_hat
        return x_t


@dataclass(frozen=True)
class Midpoint(Euler):
    """Steps of second order, two calls each: the velocity half a step ahead is used for the whole step."""

    title, stages = "the midpoint rule", (0.5, 1.0)


def check_steps(n_steps: int, most: int = T) -> None:
    if not 1 <= n_steps <= most:
        raise UserError(f"{n_steps} sampling steps are not between 1 and {most}, the most that there can be")


def check_known(what: str, value: str, known: Collection) -> None:
    if value not in known:
        raise UserError(f"there is no {what} {value!r}; there are {', '.join(known)}")


def half_log_snr(alpha_bar_t: Tensor) -> Tensor:
    return 0.5 * (alpha_bar_t.log() - (1 - alpha_bar_t).log())


REFERENCE = DDIM(50, grid="leading", clamp="keep noise")
SOLVERS = {"ddim": DDIM, "dpm_solver": DPMSolver, "euler": Euler, "midpoint": Midpoint}


def as_dict(sampler: Sampler) -> dict:
    """The sampler as plain values, its class by its name in SOLVERS; `sampler_from` reads them."""
    return {"solver": {kind: name for name, kind in SOLVERS.items()}[type(sampler)], **asdict(sampler)}


def sampler_from(values: Mapping) -> Sampler:
    """The sampler that `as_dict` described; `values` may hold more, such as a row of results."""
    check_known("solver", values.get("solver"), SOLVERS)
    kind = SOLVERS[values["solver"]]
    try:
        return kind(**{field.name: field.type(values[field.name]) for field in fields(kind)})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{dict(values)} does not describe a sampler ({error!r})") from None
