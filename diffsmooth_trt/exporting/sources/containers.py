"""Which weights of a checkpoint are meant: those it holds alone, the averaged ones among several, or those under a key.

Training scripts keep weights under many names and in few forms, and it is the forms that are read here: state dicts inside
dictionaries (timm's `state_dict_ema`, mmengine's `ema_state_dict`, …), a module's averaged copy beside it in one state dict
(ema-pytorch's `ema_model.`), and averages whose names lost their dots (LitEma's `model_ema.`, MMCV's `ema_`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from ...errors import InputError

State = dict[str, Tensor]
# Parts of names, between dots and underscores, that say that the weights are averages over training.
AVERAGED = frozenset({"ema", "averaged", "average", "avg", "swa", "shadow", "polyak"})
NEGATIONS = frozenset({"non", "no", "not", "without"})
# What scripts call the network's own weights, of which the first one found is taken.
USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights", "model_state")
COUNTERS = frozenset({"n_averaged", "num_updates", "decay", "initted", "step"})  # that averages keep beside the weights
DEEPEST = 4  # dictionaries inside one another that are looked through
WHOLE = ""  # the key of a checkpoint that is a state dict


@dataclass(frozen=True)
class Choice:
    """The weights `state` that stand under `key` of a checkpoint, and the keys of the `others` in it.

    `averaged` says whether their name calls them averages over training; `unnamed` are the keys of averages without names.
    """

    key: str
    state: State
    averaged: bool
    others: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()

    def recorded(self) -> dict[str, Any]:
        """What the facts say of it; nothing where the file was a state dict and no more."""
        if self.key == WHOLE and not self.others:
            return {}
        values: dict[str, Any] = {"key": self.key or "the file itself", "averaged": self.averaged}
        values |= {"others": list(self.others)} if self.others else {}
        return {"weights_of": values | ({"without names": list(self.unnamed)} if self.unnamed else {})}


def is_averaged(key: str) -> bool:
    """Whether a key calls what stands under it averaged; `non_ema` does not."""
    parts = ["", *re.split(r"[._\-\s/]", key.lower())]
    return any(part in AVERAGED and before not in NEGATIONS for before, part in pairwise(parts))


def is_state(content: object) -> bool:
    """Whether `content` maps names to tensors and holds nothing else."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key and name else key or name


def _states(content: object, key: str = WHOLE, depth: int = 0) -> Iterator[tuple[str, State]]:
    """Every state dict in `content` by its key; optimizers, which hold tensors for parameters too, are passed over."""
    if not isinstance(content, Mapping) or depth > DEEPEST or "param_groups" in content:
        return
    if is_state(content):
        yield key, dict(content)
        return
    for name, value in content.items():
        if isinstance(name, str):
            yield from _states(value, _joined(key, name), depth + 1)


def _lists(content: object, key: str = WHOLE, depth: int = 0) -> Iterator[str]:
    """The keys of lists of tensors that are called averages: of which network's parameters they are, only their order says."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    for name, value in content.items():
        where = _joined(key, str(name))
        if isinstance(value, list | tuple) and value and all(isinstance(each, Tensor) for each in value):
            if is_averaged(where):
                yield where
        else:
            yield from _lists(value, where, depth + 1)


def _squashed(name: str) -> str:
    return re.sub(r"[._]", "", name)


def _parts(key: str, state: State) -> Iterator[tuple[str, State, bool]]:
    """A state dict as it is, and whether it is called averaged; or, where it holds averages beside the weights that they are
    of, both apart.

    The averages stand in for the weights of the same name; what has none, like the statistics of norms, is the weights' own.
    """
    prefix, averages = _averages(state)
    own = {n: v for n, v in state.items() if not (prefix and n.startswith(prefix)) and not _counts(n, v)}
    merged = _merged(own, averages) if averages else None
    if merged is None:
        yield key, {n: v for n, v in state.items() if not _counts(n, v)}, is_averaged(key)
        return
    firsts = {name.partition(".")[0] for name in own}
    first = firsts.pop() if len(firsts) == 1 else ""
    yield (_joined(key, first) if first or key else "weights"), own, False
    yield _joined(key, prefix.rstrip("._")), merged, True


def _merged(own: State, averages: State) -> State | None:
    """`own` with the averages in it; None unless each of these is of one of them."""
    by_name: dict[str, list[str]] = {}
    for name in own:
        for form in {_squashed(name), _squashed(name.partition(".")[2])}:
            by_name.setdefault(form, []).append(name)
    merged = dict(own)
    for name, value in averages.items():
        of = by_name.get(_squashed(name), [])
        if len(of) != 1 or own[of[0]].shape != value.shape:
            return None
        merged[of[0]] = value
    return merged


def _averages(state: State) -> tuple[str, State]:
    """The prefix that averages have in a state dict with others beside them, and the averages without it; or nothing."""
    prefixes = dict.fromkeys(f"{first}." for n in state if is_averaged(first := n.partition(".")[0]) and "." in n)
    for prefix in [*prefixes, "ema_"]:
        averages = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        averages = {n: v for n, v in averages.items() if not _counts(n, v)}
        if averages and any(not n.startswith(prefix) and not _counts(n, v) for n, v in state.items()):
            return prefix, averages
    return "", {}


def _counts(name: str, value: Tensor) -> bool:
    return name.rpartition(".")[2] in COUNTERS and value.numel() == 1


def _under(states: Mapping[str, State], key: str) -> State | None:
    """What `key` names: a state dict, or a prefix of the names in one, as in `state_dict.model`."""
    if key in states:
        return states[key]
    parts = []
    for where, state in states.items():
        for prefix in {f"{key}.", f"{key.removeprefix(f'{where}.')}."}:
            part = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            parts += [part] if part else []
    return parts[0] if len(parts) == 1 else None


def choose(name: str, content: object, key: str | None = None) -> Choice:
    """The weights of a checkpoint's `content` that `key` names, or that are meant where it is None; errors call it `name`.

    Without a key: the averaged ones where there is one set of these; of others the only one, or the first of `USUAL`. Raises
    InputError where there is none, where the choice is open, and for a key that is not there.
    """
    parts = [part for top, state in _states(content) for part in _parts(top, state)]
    states = {where: state for where, state, _ in parts}
    averaged = [where for where, _, average in parts if average]
    unnamed = tuple(_lists(content))
    known = ", ".join(where or "the file itself" for where in states)
    if key is not None:
        state = _under(states, key)
        if state is None:
            wrong = (
                "holds tensors without names there, whose order alone says whose they are" if key in unnamed else "none"
            )
            raise InputError(
                f"--checkpoint-key {key}: checkpoint {name} has {wrong}, expected one of {known or 'no weights at all'}: "
                "give one of them"
            )
        return Choice(key, state, key in averaged or is_averaged(key), tuple(w for w in states if w != key), unnamed)
    if not states:
        more = f"; {', '.join(unnamed)} is a list without names" if unnamed else ""
        raise InputError(
            f"checkpoint {name} holds no state dict: expected tensors by name, plain or inside dictionaries{more}; save "
            "model.state_dict()"
        )
    usual = [where for named in USUAL for where in states if where == named]
    chosen = averaged or ([WHOLE] if WHOLE in states else usual[:1]) or list(states)
    if len(chosen) > 1:
        raise InputError(
            f"checkpoint {name} holds {len(states)} sets of weights ({known}): say which by --checkpoint-key {chosen[0]}"
        )
    (taken,) = chosen
    return Choice(taken, states[taken], taken in averaged, tuple(where for where in states if where != taken), unnamed)
