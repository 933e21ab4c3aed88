#![doc = include_str!("../README.md")]

pub mod broken;
mod faulty;
mod harness;
mod in_process;
mod journal;
mod member;
mod proxy;
mod report;
mod runner;
mod suite;
mod trial;

pub use self::{
    faulty::{Faulty, Mode},
    harness::{Backend, Connect, Fault, Harness, Timing},
    in_process::{InProcess, MakeSystem, StoreUnderTest},
    member::{Member, MemberState},
    proxy::{Direction, FaultProxy, Toxic},
    runner::{TrialOutcome, run, run_numbers},
};
