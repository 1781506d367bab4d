//! One record per decision, as a JSON line.
