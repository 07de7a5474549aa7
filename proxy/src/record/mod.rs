//! Stage 8: what is remembered.
//!
//! *In*: transitions of jobs, contents of files, decisions worth an audit line. *Out*: the [`ledger`] (who owns what, what was accepted, what
//! became of it), the [`blobs`] (contents), the [`audit`] log and the [`metrics`]. *Refuses*: whatever is not the asking owner's, as not there;
//! submissions when it can't write durably. *Answers the attack*: forged or guessed ids (everything is looked up inside an [`OwnerScope`](crate::owner::OwnerScope)) and lost
//! or doubled work after a crash. *Leaves to others*: when to run what (dispatch), how it is shown (deliver).

pub mod audit;
pub mod backup;
pub mod blobs;
pub mod durable;
pub mod gpus;
pub mod holds;
pub mod ledger;
pub mod metrics;
pub mod pins;
pub mod space;
pub mod state_dir;
