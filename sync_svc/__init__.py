"""sync_svc: hints from the queue to the nodes of online devices, and to push for the others.

Modules, along the arrows: app → servicer → intake → queue → reader → inbox → worker → routes,
links (link), pushes. plan is pure and holds the rules; lag tells nodes how far behind all is.
"""
