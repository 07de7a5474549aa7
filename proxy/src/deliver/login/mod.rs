//! The login of browsers: a few pages of our own and where they lead. Pure: texts in, answers out; who is let in is decided by the authenticate stage.

pub mod accounts;
pub mod agent;
pub mod next;
pub mod page;
