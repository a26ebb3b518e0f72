"""Small parts without any knowledge of spans; standard library only."""
