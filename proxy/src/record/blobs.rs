//! The gateway's store of contents.
