"""The pages people look at: typed blocks in, one self-contained HTML string out.

Nothing here knows what a stage or a recipe is. `page` holds the blocks and `render`; `charts` the figures among them.
A page asks the network for nothing, runs no script, follows no link and is the same bytes for the same input: the KFP
UI shows it in a sandboxed frame about 480 px wide.
"""
