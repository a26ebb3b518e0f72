"""What the layers of the framework share: ids of tasks, and how agents of smolagents are made."""
