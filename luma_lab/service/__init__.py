"""The network face: REST and server-sent events on one port, the workbench beside them.

Handlers translate; the rules live in the engine. `luma_lab.service.app` joins the parts.
"""
