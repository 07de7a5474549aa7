//! The tenants part.
