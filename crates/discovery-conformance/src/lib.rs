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
pub mod servers;
mod suite;
mod trial;

pub use self::{
    faulty::{Cut, Faulty, Mode},
    harness::{Backend, BadConnection, Connect, Fault, Harness, Timing},
    in_process::{InProcess, MakeSystem, StoreUnderTest},
    member::{Member, MemberState},
    proxy::{Direction, FaultProxy, Toxic},
    runner::{TrialOutcome, numbers, run, run_number},
};
