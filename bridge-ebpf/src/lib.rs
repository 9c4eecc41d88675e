//! Empty on purpose: a library target lets `bridge-user` name this package as a build dependency, so that cargo
//! rebuilds the BPF object when its sources change.
#![no_std]
