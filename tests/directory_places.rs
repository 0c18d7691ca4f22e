//! A directory's files stay where they were made, wherever the program has gone since.

#![allow(unsafe_code)]

mod forked;
mod refused;
mod served;

use std::path::Path;
use std::time::Duration;

use crossproc::directory::{Address, Directory, DirectoryClient, DirectoryError, DirectoryOptions};
use crossproc::process::{Child, Exit};

use forked::{PATIENCE, enter_pid_namespace, fork, join_all, wait_until_asleep};
use served::{Folder, alone, serve};

fn what_is_in(folder: &Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// Changes the working directory, which is the whole process's.
fn go_to(folder: &Path) {
    std::env::set_current_dir(folder).unwrap();
}

#[test]
fn a_relative_path_is_left_clean_from_another_folder() {
    let (here, there) = (Folder::new(), Folder::new());
    alone(|| {
        for path in ["plant", "./plant", "plant/"] {
            go_to(here.path());
            let directory = Directory::bind(Path::new(path)).unwrap();
            go_to(there.path());
            drop(directory);
            assert!(what_is_in(here.path()).is_empty(), "{path}: {:?}", what_is_in(here.path()));
        }
    });
}

#[test]
fn of_two_servers_at_one_relative_path_each_removes_its_own() {
    let (here, there) = (Folder::new(), Folder::new());
    alone(|| {
        go_to(here.path());
        let first = Directory::bind(Path::new("plant")).unwrap();
        go_to(there.path());
        let second = Directory::bind(Path::new("plant")).unwrap();
        drop(first);
        assert!(what_is_in(here.path()).is_empty());
        assert_eq!(what_is_in(there.path()).len(), 2);
        std::thread::scope(|scope| {
            scope.spawn(|| second.serve().unwrap());
            DirectoryClient::connect(there.path().join("plant")).unwrap();
            second.close();
        });
        go_to(here.path());
        drop(second);
        assert!(what_is_in(there.path()).is_empty());
    });
}

/// The first process of a pid namespace has a child that is the first of another: both have pid 1.
#[test]
fn a_childs_copy_removes_nothing_though_it_has_the_same_pid() {
    fn in_new_namespace<R: Exit>(body: impl FnOnce() -> R + Send) -> Child {
        enter_pid_namespace();
        fork(body)
    }
    let folder = Folder::new();
    let path = folder.path().join("plant");
    alone(|| {
        join_all([in_new_namespace(|| {
            assert_eq!(std::process::id(), 1);
            let directory = Directory::bind(&*path).unwrap();
            join_all([in_new_namespace(|| {
                assert_eq!(std::process::id(), 1);
                assert!(matches!(directory.serve(), Err(DirectoryError::NotToBeServed { .. })));
                // This drops the child's own copy.
                // SAFETY: the copy is not used or dropped again, since the child ends without
                // destructors.
                drop(unsafe { std::ptr::read(&raw const directory) });
            })]);
            assert_eq!(what_is_in(folder.path()).len(), 2);
            drop(directory);
            assert!(what_is_in(folder.path()).is_empty());
        })]);
    });
}

#[test]
fn a_folder_that_is_moved_is_left_clean() {
    let folder = Folder::new();
    alone(|| {
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        std::fs::create_dir(&before).unwrap();
        let directory = Directory::bind(before.join("plant")).unwrap();
        std::fs::rename(&before, &after).unwrap();
        // These are another program's, at the path where the directory was bound.
        std::fs::create_dir(&before).unwrap();
        std::fs::write(before.join("plant.lock"), "").unwrap();
        drop(directory);
        assert!(what_is_in(&after).is_empty());
        assert_eq!(what_is_in(&before), ["plant.lock"]);
    });
}

#[test]
fn who_waits_at_a_relative_path_waits_there_still_from_another_folder() {
    let (here, there) = (Folder::new(), Folder::new());
    let (waits_at, goes_to) = (here.path().to_owned(), there.path().to_owned());
    let waits = fork(move || {
        go_to(&waits_at);
        std::thread::scope(|scope| {
            let main = rustix::thread::gettid().as_raw_nonzero();
            scope.spawn(move || {
                let path = format!("/proc/self/task/{main}/syscall");
                let polls = format!("{} ", libc::SYS_ppoll);
                forked::wait_until("it waits for a server", || {
                    std::fs::read_to_string(&path).is_ok_and(|call| call.starts_with(&polls))
                });
                go_to(&goes_to);
                // The file tells the other process that this one has gone.
                std::fs::write(goes_to.join("gone"), "").unwrap();
            });
            DirectoryClient::connect_timeout(Path::new("plant"), PATIENCE / 3).unwrap();
        });
    });
    forked::wait_until("it has gone elsewhere", || there.path().join("gone").exists());
    wait_until_asleep(&waits);
    let server = serve(&Address::from(here.path().join("plant")), DirectoryOptions::new());
    join_all([waits]);
    forked::kill(&server);
}

#[test]
fn what_a_server_has_left_that_was_killed_while_it_bound_is_replaced() {
    let folder = Folder::new();
    alone(|| {
        let path = folder.path().join("plant");
        let left = std::os::unix::net::UnixListener::bind(folder.path().join("plant.new")).unwrap();
        std::fs::write(folder.path().join("plant.lock"), "").unwrap();
        let directory = Directory::bind(&path).unwrap();
        drop(left);
        std::thread::scope(|scope| {
            scope.spawn(|| directory.serve().unwrap());
            DirectoryClient::connect(&path).unwrap();
            directory.close();
        });
        drop(directory);
        assert!(what_is_in(folder.path()).is_empty(), "{:?}", what_is_in(folder.path()));
    });
}

#[test]
fn a_lock_that_cannot_be_had_is_no_other_server() {
    let folder = Folder::new();
    alone(|| {
        // The file exists, so that it is locked in its place.
        std::fs::write(folder.path().join("plant.lock"), "").unwrap();
        let locks = [libc::F_SETLK, libc::F_OFD_SETLK];
        refused::refuse(
            &locks.map(|lock| {
                refused::call(libc::SYS_fcntl, libc::ENOLCK).if_argument(1, lock as u32)
            }),
        );
        match Directory::bind(folder.path().join("plant")) {
            Err(DirectoryError::Os { what, source }) => {
                assert!(
                    what.contains(".lock") && source.raw_os_error() == Some(libc::ENOLCK),
                    "{what}: {source}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(what_is_in(folder.path()), ["plant.lock"]);
    });
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_served_by_a_relative_one() {
    let folder = Folder::new();
    let long = folder.path().join("long".repeat(40));
    std::fs::create_dir(&long).unwrap();
    alone(|| {
        go_to(&long);
        let directory = Directory::bind(Path::new("plant")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| directory.serve().unwrap());
            DirectoryClient::connect_timeout(Path::new("plant"), Duration::from_secs(10)).unwrap();
            directory.close();
        });
        go_to(folder.path());
        drop(directory);
        assert!(what_is_in(&long).is_empty());
    });
}
