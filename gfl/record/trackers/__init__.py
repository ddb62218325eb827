"""Trackers of experiments behind one interface of four events; none of their packages is imported unless asked for."""
