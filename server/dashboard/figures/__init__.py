"""Figures as coordinates, which templates draw as SVG: the tree of versions, intervals, small curves."""
