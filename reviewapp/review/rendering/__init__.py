"""An agent's text made into HTML that is safe to show: nothing in it runs, loads, links out unasked, or hides.

`page.render_output` is the door; the other modules do one format or one duty each.
"""
