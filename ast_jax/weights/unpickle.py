"""Pickles read by a machine of our own, which knows containers, numbers and texts and calls nothing but ours.

Python's own unpickler allocates what a pickle claims (8 GB for ten bytes), hashes what it calls a key (tuples
that share themselves: for ever) and sets attributes of whatever it was given. Here every instruction costs
what it is long, and there are only those that torch.save writes. What a pickle names and we do not know stays
a name: it is neither looked up nor called.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from ast_jax.weights.budget import shown

# Bytes of a pickle without its tensors and long texts: those of models have less than 1 MiB. One may become
# an object of 64; what a text, in which NumPy's arrays lie, has beyond SHORT bytes costs what it is long.
LIMIT, SHORT = 1 << 22, 64

_PUSH = {
    *(
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
    ),
    *("BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_MARKED: dict[str, Callable] = {
    "LIST": list,
    "TUPLE": tuple,
    "FROZENSET": tuple,
    "DICT": lambda items: _extend({}, items),
}


@dataclasses.dataclass(frozen=True)
class Unknown:
    """What a pickle names and we do not know: its name, in the place of all that would be made with it."""

    name: str


def unknown(tree: Any) -> Iterator[str]:
    """The names of what is unknown in an object of `load`, which may hold itself."""
    seen, waiting = set[int](), [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Unknown):
            yield value.name
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def load(file: Any, find: Callable[[str, str], Any], persistent: Callable[[Any], Any]) -> Any:
    """The object of one pickle; `file` then stands behind it.

    Sets become lists; what a pickle would set as attributes of an object is left aside.

    Args:
        file: opened for reading bytes, or a mapped one.
        find: what a module's name stands for; functions, and only these, may be called. Of an `Unknown` every
            call gives the same again, and what would be put into it is left aside.
        persistent: what a persistent id stands for.

    Raises:
        Exception: of any kind, where the pickle is damaged or does what state dicts do not.
    """
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    start = file.tell()
    for opcode, arg, at in pickletools.genops(file):
        name = opcode.name
        if at - start > LIMIT:
            raise ValueError(f"more than {LIMIT} bytes without its tensors and long texts")
        if isinstance(arg, (str, bytes)):
            start += max(0, file.tell() - at - SHORT)
        if name in _PUSH:
            if isinstance(arg, int) and arg.bit_length() > 1024:
                raise ValueError(f"an integer of {arg.bit_length()} bits")
            stack.append(_CONSTANTS.get(name, arg))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif name in _MARKED:
            items, stack = stack, marked.pop()
            stack.append(_MARKED[name](items))
        elif name in ("SETITEMS", "APPENDS", "ADDITEMS"):
            items, stack = stack, marked.pop()
            _extend(stack[-1], items)
        elif name in ("SETITEM", "APPEND"):
            size = 2 if name == "SETITEM" else 1
            items, stack[-size:] = stack[-size:], []
            _extend(stack[-1], items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, attribute = arg.split(" ", 1) if arg else (stack.pop(-2), stack.pop())
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise ValueError(f"a name that is {shown(attribute)} of {shown(module)}")
            stack.append(find(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            args, function = stack.pop(), stack.pop()
            if not isinstance(function, Unknown):
                if not (callable(function) and isinstance(args, tuple) and len(args) <= 16):
                    raise ValueError(f"a call of {shown(function)} with {shown(args)}")
                function = function(*args)
            stack.append(function)
        elif name == "BINPERSID":
            stack.append(persistent(stack.pop()))
        elif name in ("BUILD", "POP"):
            stack.pop()
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the instruction {name}, which torch.save does not write")
    raise EOFError("no end")


def _extend(container: Any, items: list[Any]) -> Any:
    """The container with the items in it, a dictionary's being key, value, key, value."""
    if isinstance(container, list):
        container.extend(items)
    elif isinstance(container, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Texts keep their hash, and small integers are theirs: no key costs more than it is long.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 1 << 60):
                raise ValueError(f"a dictionary with the key {shown(key)}")
            container[key] = value
    elif not isinstance(container, Unknown):
        raise ValueError(f"items for {shown(container)}")
    return container
