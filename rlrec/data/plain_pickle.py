"""What a pickle of plain values holds, without loading it.

A pickle is a program, and loading it runs that program. Here its instructions are listed by `pickletools` (which runs
nothing), and those are followed that build lists, tuples, dictionaries, texts and numbers. There is none among them
that could name a class or call a function; any other ends the reading.
"""

from __future__ import annotations

import pickletools
from pathlib import Path

from rlrec.data.raw import require
from rlrec.data.schema import DataError

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_VALUES = {*_CONSTANTS, *_TEXTS, *_NUMBERS}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_plain_pickle(path: Path, advice: str) -> object:
    """The lists, tuples, dictionaries, texts, numbers, booleans and None in a pickle of any protocol.

    Half a million instructions a second; 343,000 reviews of TripAdvisor take a quarter of a minute.

    Raises:
        DataError: the file is missing, empty or cut off, or has an instruction that builds anything else.
    """
    require(path, advice)
    machine = _Machine()
    with path.open("rb") as file:
        try:
            for instruction, value, position in pickletools.genops(file):
                if instruction.name == "STOP":
                    return machine.stack.pop()
                if not machine.follow(instruction.name, value):
                    raise DataError(
                        f"{path}: at byte {position} is the instruction {instruction.name}, which builds more than "
                        f"lists, tuples, dictionaries, texts and numbers; do not load this file, but {advice}"
                    )
        except DataError:
            raise
        # What the instructions of a damaged file do to an empty stack, a missing memo, or a list taken for a dict; and
        # a length beyond all memory, which is tried before it is missed.
        except (ValueError, IndexError, KeyError, AttributeError, TypeError, MemoryError, OverflowError) as error:
            raise DataError(f"{path}: not a whole pickle ({error}); download it again.") from error
    raise DataError(f"{path}: not a whole pickle; download it again.")


class _Machine:
    def __init__(self):
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def follow(self, name: str, value: object) -> bool:
        """Do what one instruction says; False if it is none of those allowed."""
        stack = self.stack
        if name in _VALUES:
            stack.append(_CONSTANTS.get(name, value))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[value])
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[value] = stack[-1]
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLE_SIZES:
            stack.append(tuple(self._take(len(stack) - _TUPLE_SIZES[name])))
        elif name in ("TUPLE", "LIST"):
            values = self._take(self.marks.pop())
            stack.append(tuple(values) if name == "TUPLE" else values)
        elif name in ("APPEND", "APPENDS"):
            values = self._take(self.marks.pop() if name == "APPENDS" else -1)
            stack[-1].extend(values)
        elif name in ("DICT", "SETITEM", "SETITEMS"):
            values = self._take(-2 if name == "SETITEM" else self.marks.pop())
            if name == "DICT":
                stack.append({})
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        else:
            return name in ("PROTO", "FRAME")
        return True

    def _take(self, start: int) -> list:
        """The values on the stack from `start` on, taken off."""
        values = self.stack[start:]
        del self.stack[start:]
        return values
