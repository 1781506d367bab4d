//! Real keys, placeholders, and where they stand in a request.
