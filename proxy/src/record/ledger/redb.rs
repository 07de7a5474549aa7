//! The redb form.
