"""The AgentOps server: the store server that also speaks the wire protocol of the AgentOps SDK 0.4.

The protocol is that of the SDK and of its public API; https://docs.agentops.ai. Nothing here sends anything to another
machine unless the mode says so.
"""
