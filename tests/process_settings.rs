//! What a forked child sets for itself before its closure runs.

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::ptr;

use crossproc::process::{Builder, Limit};
use rustix::process::{Resource, getpgrp, getpid, getrlimit};

mod forked;
mod refused;
use forked::{PATIENCE, fork, join_all};

fn alone(test: impl FnOnce() + Send) {
    join_all([fork(test)]);
}

/// Returns whether a closure is true in a child with these settings.
fn holds(builder: &Builder<'_>, of_child: impl FnOnce() -> bool + Send + 'static) -> bool {
    let child = builder.fork(move || i32::from(!of_child())).unwrap();
    child.join_timeout(PATIENCE).unwrap().success()
}

fn action(signal: i32) -> usize {
    // SAFETY: zeroes are a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: changes nothing, and writes a whole action.
    assert_eq!(unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) }, 0);
    action.sa_sigaction
}

fn name() -> String {
    fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned()
}

#[test]
fn a_child_has_its_settings_and_its_parent_keeps_its_own() {
    alone(|| {
        let (group, folder, own) = (getpgrp(), std::env::current_dir().unwrap(), name());
        assert!(holds(&Builder::new(), move || getpgrp() == group));
        assert!(holds(&Builder::new().process_group(0), || getpgrp() == getpid()));
        assert!(holds(&Builder::new().name("counter"), || name() == "counter"));
        assert!(holds(&Builder::new().name("a name that is too long"), || {
            name() == "a name that is"
        }));
        assert!(holds(&Builder::new().current_dir("/proc"), || {
            std::env::current_dir().unwrap() == std::path::Path::new("/proc")
        }));
        assert!(holds(&Builder::new().limit(Limit::Core, 0).limit(Limit::Descriptors, 77), || {
            getrlimit(Resource::Nofile).maximum == Some(77)
                && getrlimit(Resource::Core).current == Some(0)
        }));
        assert_eq!((getpgrp(), std::env::current_dir().unwrap(), name()), (group, folder, own));
    });
}

extern "C" fn nothing(_: i32) {}

#[test]
fn handlers_and_what_is_ignored_go_and_come_in_the_order_of_the_calls() {
    alone(|| {
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t) };
        let handler = nothing as *const () as usize;
        assert!(holds(&Builder::new(), move || action(libc::SIGUSR1) == handler));
        let builder = Builder::new().default_signal(libc::SIGUSR1).ignore_signal(libc::SIGTERM);
        assert!(holds(&builder, || {
            action(libc::SIGUSR1) == libc::SIG_DFL && action(libc::SIGTERM) == libc::SIG_IGN
        }));
        let builder = builder.default_signal(libc::SIGTERM);
        assert!(holds(&builder, || action(libc::SIGTERM) == libc::SIG_DFL));
        assert_eq!(action(libc::SIGUSR1), handler);
    });
}

/// Requires that there is no child, and that the error says what failed.
fn is_refused(builder: &Builder<'_>, kind: io::ErrorKind, what: &str) {
    let error = builder.fork(|| -> () { unreachable!("it does not begin") }).unwrap_err();
    assert!(error.kind() == kind && error.to_string().contains(what), "{kind}: {error}");
    assert!(fs::read_to_string("/proc/thread-self/children").unwrap().is_empty());
}

#[test]
fn what_cannot_be_set_is_an_error_that_says_what_it_was() {
    use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
    alone(|| {
        let folder = Builder::new().current_dir("/no/such/folder");
        is_refused(&folder, NotFound, "entering its working directory failed in a forked child");
        let builder = Builder::new().ignore_signal(libc::SIGKILL);
        is_refused(&builder, InvalidInput, "ignoring a signal, or not");
        is_refused(&Builder::new().name("a\0b"), InvalidInput, "the name of a forked child");
        let folder = Builder::new().current_dir("a\0b");
        is_refused(&folder, InvalidInput, "the working directory of a forked child");
        refused::refuse(&[
            refused::call(libc::SYS_setpgid, libc::EPERM),
            refused::call(libc::SYS_prctl, libc::EPERM),
            refused::call(libc::SYS_setrlimit, libc::EPERM),
            refused::call(libc::SYS_prlimit64, libc::EPERM),
        ]);
        is_refused(&Builder::new().process_group(0), PermissionDenied, "its process group");
        is_refused(&Builder::new().name("counter"), PermissionDenied, "setting its name");
        is_refused(&Builder::new().limit(Limit::Core, 0), PermissionDenied, "setting a limit");
    });
}

#[test]
fn all_limits_can_be_set() {
    alone(|| {
        let limits = [
            (Limit::AddressSpace, Resource::As),
            (Limit::Core, Resource::Core),
            (Limit::CpuTime, Resource::Cpu),
            (Limit::Data, Resource::Data),
            (Limit::FileSize, Resource::Fsize),
            (Limit::Locked, Resource::Memlock),
            (Limit::Descriptors, Resource::Nofile),
            (Limit::Processes, Resource::Nproc),
            (Limit::Stack, Resource::Stack),
        ];
        for (limit, resource) in limits {
            // Room enough for all of them, if there is a limit already.
            let most = getrlimit(resource).maximum.unwrap_or(1 << 45).min(1 << 45);
            let builder = Builder::new().limit(limit, most);
            assert!(
                holds(&builder, move || getrlimit(resource).maximum == Some(most)),
                "{limit:?}"
            );
        }
    });
}

#[test]
fn a_nurserys_children_have_the_settings_and_its_helper_has_not() {
    alone(|| {
        let builder = Builder::new().name("counter").process_group(0);
        let nursery =
            builder.nursery(|_| assert!(name() == "counter" && getpgrp() == getpid())).unwrap();
        let (child, _) = nursery.fork().unwrap();
        assert!(child.join_timeout(PATIENCE).unwrap().success());
        let helper = fs::read_to_string(format!("/proc/{}/comm", nursery.id())).unwrap();
        assert_ne!(helper.trim_end(), "counter");
        assert!(Builder::new().name("a\0b").nursery(|_| ()).is_err());
    });
}
