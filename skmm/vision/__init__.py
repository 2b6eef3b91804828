"""Images and text as semantic nodes: patch features, node scores, segmentation."""

from skmm.vision._distill import CrossAttentionDistiller
from skmm.vision._encoder import VisionLanguageEncoder
from skmm.vision._render import render_text
from skmm.vision._scores import NodeScores
from skmm.vision._segment import TopologySegmenter

__all__ = [
    "CrossAttentionDistiller",
    "NodeScores",
    "TopologySegmenter",
    "VisionLanguageEncoder",
    "render_text",
]
