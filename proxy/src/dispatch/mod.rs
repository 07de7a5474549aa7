//! Stage 6: which job runs where, and what becomes of it.
//!
//! *In*: accepted jobs (from `actions::submit` or, after a restart, from the ledger). *Out*: one attempt at a time on each backend, and exactly one
//! committed result a job, handed to deliver. *Refuses*: nothing that was accepted; a job that can't be run ends in a stated error after bounded
//! tries. *Answers the attack*: queue jumping (the queue is ours, ComfyUI holds at most one job of ours), stopping another's job by the
//! global interrupt flag (nothing foreign waits behind a job), a backend that dies with work in its memory. *Leaves to others*: whether a
//! workflow may run (inspect), who hears of it (deliver).
//!
//! Pure rules: [`queue`], [`schedule`] (which job runs where next), [`estimate`] and [`measure`] (what jobs take), [`collect`], [`health`], [`stall`], [`fault`], [`facts`], [`vram`], [`share`]. Tasks: [`dispatcher`] decides, with [`fleet`] between it and the scheduler, [`attempt`] carries one attempt from assignment to commit,
//! [`monitor`] watches one backend, with [`canary`] (does its worker run), [`warm_up`] and [`sweep`] (what is left there of ours), [`tracks`] says whose an upstream event is and [`relay`] hands
//! it on, [`dead_letter`] puts aside what lost every attempt, [`push`] brings the files that a workflow names to its backend, [`pictures`] keeps what its nodes send over the WebSocket. [`comfyui`] and [`push`] are the only files that speak ComfyUI's HTTP.

pub mod attempt;
pub mod backend;
pub mod canary;
pub mod collect;
pub mod comfyui;
pub mod disk;
pub mod dead_letter;
pub mod dispatcher;
pub mod estimate;
pub mod facts;
pub mod fault;
pub mod fleet;
pub mod halts;
pub mod health;
pub mod learned;
pub mod measure;
pub mod monitor;
pub mod outlook;
pub mod paid;
pub mod pictures;
pub mod push;
pub mod queue;
pub mod redecide;
pub mod relay;
pub mod schedule;
pub mod share;
pub mod stall;
pub mod sweep;
pub mod tracks;
pub mod vram;
pub mod warm_up;
