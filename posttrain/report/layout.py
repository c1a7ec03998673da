"""Places for the boxes of a directed acyclic graph, drawn from top to bottom (Sugiyama's four steps).

Rows of boxes alternate with rows of edge labels, and an edge takes a place of its own in every row it passes. So no
line crosses a box or a label and no two texts overlap, by construction; lines cross only between rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from posttrain.report.svg import separate

_GAP = 14.0  # between boxes of a row
_LANE = 9.0  # what an edge that passes a row takes
_PORT = 11.0  # between edges that leave or enter the same box
_RESERVED = 34.0  # of a row's width, for edges that pass it
_SWEEPS = 12


@dataclass
class Place:
    """Something in a row: a box, or a piece of an edge (with or without its label)."""

    row: int
    width: float
    height: float = 0.0
    box: str | None = None
    x: float = 0.0
    above: list[Place] = field(default_factory=list, repr=False)
    below: list[Place] = field(default_factory=list, repr=False)

    def neighbours(self, down: bool) -> list[Place]:
        """What it is joined to, in the row above (seen on the way down) or below."""
        return self.above if down else self.below


@dataclass
class Route:
    """An edge: the box it leaves, the pieces it passes (the last one holds its label), the box it enters.

    Edges share pieces: those that enter a box under the same label merge, others that leave the same box part late.
    Thirty parents then take the room of one, and what joins what stays plain.
    """

    pieces: list[Place]
    label: str
    leaves_at: float = 0.0
    enters_at: float = 0.0


@dataclass
class Layout:
    """Boxes and edges with their places; rows in order, even ones hold boxes, odd ones labels."""

    boxes: dict[str, Place]
    routes: list[Route]
    rows: list[list[Place]]
    width: float


def arrange(
    sizes: Mapping[str, tuple[float, float]],
    edges: Mapping[tuple[str, str], tuple[str, float]],
    width: float,
) -> Layout:
    """Place boxes of the given sizes, joined by edges with a label and its width, within `width` if they can be.

    Raises:
        ValueError: the edges make a cycle.
    """
    layers = _layers(sizes, list(edges), width)
    boxes = {name: Place(2 * layers[name], *sizes[name], box=name) for name in sizes}
    routes = _routes(boxes, edges)
    places = {id(place): place for place in [*boxes.values(), *(piece for route in routes for piece in route.pieces)]}
    rows: list[list[Place]] = [[] for _ in range(2 * max(layers.values(), default=-1) + 1)]
    for place in places.values():
        rows[place.row].append(place)
    rows = _order(rows)
    width = max([width, *(_row_width(row) for row in rows)])
    _set_x(rows, width)
    for route in sorted(routes, key=lambda route: -len(route.pieces)):
        _straighten(route, rows, width)
    _set_ports(boxes, routes)
    return Layout(boxes, routes, rows, width)


def topological(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[str]:
    """The names so that every edge points forward; among equals, in the order given.

    Raises:
        ValueError: the edges make a cycle.
    """
    waiting = {name: {start for start, end in edges if end == name} for name in names}
    ordered: list[str] = []
    while waiting:
        ready = [name for name, parents in waiting.items() if not parents & waiting.keys()]
        if not ready:
            raise ValueError(f"the graph has a cycle through {', '.join(map(repr, waiting))}")
        ordered += ready
        for name in ready:
            del waiting[name]
    return ordered


def _layers(sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]], width: float) -> dict[str, int]:
    """Longest paths from the sources, then what has more children than parents moves down to its children, then
    boxes that overfill a layer move to the next."""
    parents, children = defaultdict(list), defaultdict(list)
    for start, end in edges:
        parents[end].append(start)
        children[start].append(end)
    ordered = topological(list(sizes), edges)
    wish: dict[str, int] = {}
    for name in ordered:
        wish[name] = max((wish[parent] + 1 for parent in parents[name]), default=0)
    for name in reversed(ordered):
        if len(children[name]) > len(parents[name]):
            wish[name] = min(wish[child] for child in children[name]) - 1
    filled: defaultdict[int, float] = defaultdict(float)
    layers: dict[str, int] = {}
    for name in sorted(ordered, key=lambda name: wish[name]):
        layer = max([wish[name], *(layers[parent] + 1 for parent in parents[name])])
        while filled[layer] and filled[layer] + sizes[name][0] > width - _RESERVED:
            layer += 1
        layers[name] = layer
        filled[layer] += sizes[name][0] + _GAP
    used = {layer: index for index, layer in enumerate(sorted(set(layers.values())))}
    return {name: used[layer] for name, layer in layers.items()}


def _routes(boxes: Mapping[str, Place], edges: Mapping[tuple[str, str], tuple[str, float]]) -> list[Route]:
    merging = Counter((end, text) for (_, end), (text, _) in edges.items())
    shared: dict[tuple[str, ...], Place] = {}
    routes = []
    for (start, end), (text, text_width) in edges.items():
        pieces, last = [boxes[start]], boxes[end].row - 1
        for row in range(boxes[start].row + 1, last + 1):
            width = text_width + 8 if row == last and text else _LANE
            merges = merging[end, text] > 1
            key = ("into", end, text) if merges else ("into", end, start) if row == last else ("from", start)
            pieces.append(shared.setdefault((*key, str(row)), Place(row, width)))
        pieces.append(boxes[end])
        for upper, lower in pairwise(pieces):
            if not any(other is lower for other in upper.below):
                upper.below.append(lower)
                lower.above.append(upper)
        routes.append(Route(pieces, text))
    return routes


def _order(rows: list[list[Place]]) -> list[list[Place]]:
    """Barycentres, down and up by turns; the arrangement with the fewest crossings is kept."""
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            _number(rows)
            row.sort(key=lambda place: _barycentre(place, down))
        _number(rows)
        crossings = _crossings(rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    _number(best)
    return best


def _number(rows: list[list[Place]]) -> None:
    for row in rows:
        for index, place in enumerate(row):
            place.x = (index + 0.5) / len(row)


def _barycentre(place: Place, down: bool) -> float:
    near = place.neighbours(down)
    return sum(other.x for other in near) / len(near) if near else place.x


def _crossings(rows: list[list[Place]]) -> int:
    count = 0
    for row, lower in pairwise(rows):
        order = {id(place): index for index, place in enumerate(lower)}
        ends = [end for place in row for end in sorted(order[id(other)] for other in place.below)]
        count += sum(later < end for index, end in enumerate(ends) for later in ends[index + 1 :])
    return count


def _row_width(row: list[Place]) -> float:
    return sum(_gaps(row)) + (row[0].width + row[-1].width) / 2 + 2 if row else 0.0


def _gaps(row: list[Place]) -> list[float]:
    """The least distances between the middles of neighbours."""
    return [(left.width + right.width) / 2 + (_GAP if left.box and right.box else 5.0) for left, right in pairwise(row)]


def _set_x(rows: list[list[Place]], width: float) -> None:
    """Pull everything towards what it is joined to, edges hardest, so that long edges run straight."""
    for row in rows:
        packed = separate([width / 2] * len(row), _gaps(row), 1, width - 1)
        for place, x in zip(row, packed, strict=False):
            place.x = x
    for turn in range(4 * _SWEEPS):
        down = turn % 2 == 0
        for row in rows if down else reversed(rows):
            if row:
                _settle(row, down, width)


def _settle(row: list[Place], down: bool, width: float) -> None:
    wanted, weights = [], []
    for place in row:
        near = place.neighbours(down) or place.neighbours(not down)
        pulls = [4.0 if not (place.box or other.box) else 1.0 for other in near]
        total = sum(pulls)
        mean = sum(pull * other.x for pull, other in zip(pulls, near, strict=True)) / total if near else place.x
        wanted.append(mean)
        weights.append(total or 0.1)
    low, high = row[0].width / 2 + 1, width - row[-1].width / 2 - 1
    for place, x in zip(row, separate(wanted, _gaps(row), low, high, weights), strict=True):
        place.x = x


def _straighten(route: Route, rows: list[list[Place]], width: float) -> None:
    """Give as many successive pieces of an edge as can share one x that x, from its end upwards."""
    run: list[Place] = []
    low, high = 0.0, width
    for piece in reversed(route.pieces[1:-1]):
        left, right = _room(piece, rows[piece.row], width)
        if max(low, left) > min(high, right):
            run, low, high = [], 0.0, width
        run, low, high = [*run, piece], max(low, left), min(high, right)
        middle = sum(place.x for place in run) / len(run)
        for place in run:
            place.x = min(max(middle, low), high)


def _room(place: Place, row: list[Place], width: float) -> tuple[float, float]:
    """From where to where a place may move without touching its neighbours."""
    index = next(index for index, other in enumerate(row) if other is place)
    gaps = _gaps(row)
    low = row[index - 1].x + gaps[index - 1] if index else place.width / 2 + 1
    high = row[index + 1].x - gaps[index] if index + 1 < len(row) else width - place.width / 2 - 1
    return low, max(low, high)


def _set_ports(boxes: dict[str, Place], routes: list[Route]) -> None:
    """Let edges leave and enter a box side by side, each as near as may be to where it goes."""
    for box in boxes.values():
        leaving = sorted(place.x for place in box.below)
        entering = sorted(place.x for place in box.above)
        leaves = dict(zip(leaving, _ports(box, leaving), strict=True))
        enters = dict(zip(entering, _ports(box, entering), strict=True))
        for route in routes:
            if route.pieces[0] is box:
                route.leaves_at = leaves[route.pieces[1].x]
            if route.pieces[-1] is box:
                route.enters_at = enters[route.pieces[-2].x]


def _ports(box: Place, wanted: list[float]) -> list[float]:
    room = box.width - 20
    gap = min(_PORT, room / (len(wanted) - 1)) if len(wanted) > 1 else 0.0
    low, high = box.x - room / 2, box.x + room / 2
    return separate([min(max(x, low), high) for x in wanted], [gap] * (len(wanted) - 1), low, high)
