"""Calls between two processes, one that holds a program and one that holds its tests.

A test must not run where the program has run: there the program may have replaced `==`, `AssertionError` or the
interpreter's own memory. So tests run in a process of their own, in which the program's functions are stand-ins. A
call sends the arguments as plain data and brings back plain data, rebuilt from nothing as exact built-in types; what
is not plain data stays where it is and is known here by a number. All that a program can do is answer, and it cannot
know which answer a test expects.

What is never asked of the program, because that would hand it the expected value and let it say "equal": comparisons
and arithmetic with anything but another of its own objects.
"""

from __future__ import annotations

import builtins
import json
import operator
import os
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType
from typing import Any

from posttrain.verifiers.jail import plain

MOST_BYTES = 64 << 20
MUTABLE = (list, dict, set, bytearray)
FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, MethodDescriptorType)


class Unsupported(BaseException):
    """A test hands the program what cannot cross. Not an Exception, so that no test swallows it."""


class Peer:
    """One end. Messages are JSON with their length in front: an ask, then nested asks of either side, then a reply."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.mine: list[Any] = []
        """Objects the other side knows by their place in this list."""
        self.known: dict[int, int] = {}
        self.theirs: dict[int, Proxy] = {}

    def ask(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Have the other side do something, and answer what it asks meanwhile."""
        pairs = {name: self.encode(value) for name, value in named.items()}
        self._send(["ask", operation, [self.encode(one) for one in arguments], pairs])
        while True:
            kind, *rest = self._receive()
            if kind == "ask":
                self._answer(*rest)
            elif kind == "raise":
                raise self.error(*rest)
            else:
                value, changes = rest
                result = self.decode(value)
                for place, change in changes.items():
                    _replace(arguments[int(place)], self.decode(change))
                return result

    def _answer(self, operation: str, arguments: list[Any], named: dict[str, Any]) -> None:
        try:
            values = [self.decode(one) for one in arguments]
            pairs = {name: self.decode(value) for name, value in named.items()}
            result = self.encode(self.perform(operation, values, pairs))
            changes = {}
            for place, (value, was) in enumerate(zip(values, arguments, strict=True)):
                if type(value) in MUTABLE and (now := self.encode(value)) != was:
                    changes[place] = now
            reply = ["return", result, changes]
        except BaseException as error:
            reply = ["raise", [kind.__name__ for kind in type(error).__mro__], _text(error)]
        self._send(reply)

    def perform(self, operation: str, values: list[Any], named: dict[str, Any]) -> Any:
        raise NotImplementedError

    def encode(self, value: Any) -> Any:
        return plain.encode(value, self.number)

    def number(self, value: Any) -> Any:
        """How something that is not plain data is named to the other side."""
        if type(value) is Proxy:
            return ["yours", value._number]
        if id(value) not in self.known:
            self.known[id(value)] = len(self.mine)
            self.mine.append(value)
        return ["mine", self.known[id(value)]]

    def decode(self, value: Any) -> Any:
        return plain.decode(value, self.named)

    def named(self, kind: str, rest: list[Any]) -> Any:
        """The reverse of `number`, for what the other side says."""
        if kind == "yours":
            return self.mine[rest[0]]
        if kind == "mine" and type(rest[0]) is int:
            return self.theirs.setdefault(rest[0], Proxy(self, rest[0]))
        raise ValueError(f"unknown kind of value {kind!r}")

    def error(self, kinds: list[str], text: str) -> Exception:
        """The nearest built-in exception. Never SystemExit and its like, which would end this side."""
        return plain.exception(kinds, {})(text)

    def _send(self, message: Any) -> None:
        data = json.dumps(message).encode()
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self.outgoing, data) :]

    def _receive(self) -> Any:
        length = int.from_bytes(self._read(4), "big")
        if length > MOST_BYTES:
            raise ConnectionError("a message is too long")
        return json.loads(self._read(length))

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = os.read(self.incoming, count - len(data))
            if not part:
                raise ConnectionError("the program has ended")
            data += part
        return bytes(data)


class Program(Peer):
    """The end in the program's process. It has no secrets, and nothing here need withstand the program."""

    def __init__(self, incoming: int, outgoing: int, namespace: dict[str, Any]) -> None:
        super().__init__(incoming, outgoing)
        self.namespace = namespace
        self.given: dict[int, Callable[..., Any]] = {}
        """Functions of the tests, by their number: real ones, for a program may ask `if key` or inspect them."""

    def serve(self) -> None:
        while True:
            try:
                _, *ask = self._receive()
            except ConnectionError:
                return
            self._answer(*ask)

    def perform(self, operation: str, values: list[Any], named: dict[str, Any]) -> Any:
        if operation == "names":
            return {name: self.namespace[name] for name in values[0] if name in self.namespace}
        return OPERATIONS[operation](*values, **named)

    def number(self, value: Any) -> Any:
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["error", [kind.__name__ for kind in value.__mro__]]
        for number, given in self.given.items():
            if value is given:
                return ["yours", number]
        return super().number(value)

    def named(self, kind: str, rest: list[Any]) -> Any:
        if kind == "builtin":
            return getattr(builtins, rest[0])
        if kind != "mine":
            return super().named(kind, rest)
        proxy = Proxy(self, rest[0])
        return self.given.setdefault(rest[0], lambda *arguments, **named: self.ask("call", proxy, *arguments, **named))


class Tests(Peer):
    """The end in the process of the tests. Whatever comes in is somebody else's; it may ask for one thing only, a call
    of a function that a test handed over."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__(incoming, outgoing)
        self.errors: dict[str, type[Exception]] = {}
        """Exceptions that the program defines, as `except` in a test needs them."""

    def ask(self, operation: str, *arguments: Any, **named: Any) -> Any:
        try:
            return super().ask(operation, *arguments, **named)
        except Unsupported as error:
            if operation == "call":
                raise
            # `f(2)[key]` comes here only if f returned an object: a wrong answer, not a test that cannot be used.
            raise TypeError(str(error)) from None

    def perform(self, operation: str, values: list[Any], named: dict[str, Any]) -> Any:
        if operation != "call" or not any(values[0] is one for one in self.mine):
            raise TypeError(f"no {operation} of what belongs to the tests")
        function: Callable[..., Any] = values[0]
        return function(*values[1:], **named)

    def number(self, value: Any) -> Any:
        if isinstance(value, type | BuiltinFunctionType) and vars(builtins).get(name := value.__name__) is value:
            return ["builtin", name]
        if type(value) in (Proxy, *FUNCTIONS):
            return super().number(value)
        raise Unsupported(f"hands a {type(value).__name__} to the program; only plain data and functions can be")

    def named(self, kind: str, rest: list[Any]) -> Any:
        if kind != "error":
            return super().named(kind, rest)
        kinds = rest[0]
        return self.errors.setdefault(str(kinds[0]), type(str(kinds[0]), (plain.exception(kinds, self.errors),), {}))

    def error(self, kinds: list[str], text: str) -> Exception:
        return plain.exception(kinds, self.errors)(text)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:
        return ""


def _replace(target: Any, changed: Any) -> None:
    """Let an argument be what the program made of its copy."""
    if type(target) is not type(changed) or type(target) not in MUTABLE:
        return
    target.clear()
    target.extend(changed) if isinstance(target, list | bytearray) else target.update(changed)


class Proxy:
    """An object that lives in the other process."""

    _peer: Peer
    _number: int

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # what copy, pickle and the like look for
        return self._peer.ask("getattr", self, name)

    def __hash__(self) -> int:
        return id(self)

    def __instancecheck__(self, one: Any) -> bool:
        return type(one) is Proxy and bool(self._peer.ask("isinstance", one, self))


def _asks(operation: str) -> Callable[..., Any]:
    def method(self: Proxy, *arguments: Any, **named: Any) -> Any:
        return self._peer.ask(operation, self, *arguments, **named)

    return method


def _asks_of_two(operation: str) -> Callable[..., Any]:
    def method(self: Proxy, other: Any) -> Any:
        return self._peer.ask(operation, self, other) if type(other) is Proxy else NotImplemented

    return method


OF_ONE: dict[str, Callable[..., Any]] = {
    "call": lambda function, *arguments, **named: function(*arguments, **named),
    "setattr": setattr, "delattr": delattr, "getitem": operator.getitem, "setitem": operator.setitem,
    "delitem": operator.delitem, "len": len, "iter": iter, "next": next, "str": str, "repr": repr, "bool": bool,
}  # fmt: skip
OF_TWO: dict[str, Callable[..., Any]] = {
    "eq": operator.eq, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "matmul": operator.matmul,
    "and": operator.and_, "or": operator.or_, "xor": operator.xor,
}  # fmt: skip
OPERATIONS: dict[str, Callable[..., Any]] = {"getattr": getattr, "isinstance": isinstance, **OF_ONE, **OF_TWO}

for _name in OF_ONE:
    setattr(Proxy, f"__{_name}__", _asks(_name))
for _name in OF_TWO:
    setattr(Proxy, f"__{_name}__", _asks_of_two(_name))
