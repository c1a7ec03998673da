"""Every chart a page can hold, drawn by our own small code as SVG that follows the page's colours."""

from posttrain.report.bars import Intervals, Segment, StackedBars
from posttrain.report.graph import Graph, Node
from posttrain.report.lines import LineChart, Series
from posttrain.report.svg import Chart, Tone

__all__ = ["Chart", "Graph", "Intervals", "LineChart", "Node", "Segment", "Series", "StackedBars", "Tone"]
