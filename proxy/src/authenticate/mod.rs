//! Stage 3: who is calling.
pub mod api_key;
