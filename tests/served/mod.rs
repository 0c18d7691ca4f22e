//! Directories for the tests, each in a process of its own.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossproc::directory::{Address, DirectoryClient, DirectoryOptions};
use crossproc::process::Child;

use crate::forked::{PATIENCE, fork, join_all, wait_until};

/// Runs a test in a process of its own. No other test forks there, with copies of its descriptors,
/// or opens any.
pub(crate) fn alone(test: impl FnOnce() + Send) {
    join_all([fork(test)]);
}

/// A folder that is removed on drop, with everything in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!(
            "crossproc-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        ));
        std::fs::create_dir(&folder).unwrap();
        Folder(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the address of a socket in the folder.
    pub(crate) fn socket(&self) -> Address {
        Address::from(self.0.join("socket"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns an abstract name that no other test uses.
pub(crate) fn abstract_address() -> Address {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Address::abstract_name(format!(
        "crossproc test {} {}",
        std::process::id(),
        NEXT.fetch_add(1, Relaxed)
    ))
}

/// Starts a server that accepts connections.
pub(crate) fn serve(address: &Address, options: DirectoryOptions) -> Child {
    let theirs = address.clone();
    fork(move || options.bind(&theirs).unwrap().serve().unwrap())
}

/// Starts a server with the defaults, and connects a client to it.
pub(crate) fn serve_with_client(address: &Address) -> (Child, DirectoryClient) {
    let server = serve(address, DirectoryOptions::new());
    let client = client(address);
    (server, client)
}

/// Connects a client to a server, which may still be starting.
pub(crate) fn client(address: &Address) -> DirectoryClient {
    DirectoryClient::connect_timeout(address, PATIENCE).unwrap()
}

/// Returns how many descriptors a process has.
pub(crate) fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Waits until a process has `count` descriptors: it may close descriptors some time later.
pub(crate) fn wait_for_descriptors(process: u32, count: usize) {
    let mut last = 0;
    let deadline = std::time::Instant::now() + PATIENCE;
    wait_until("descriptors are closed", || {
        last = descriptors(process);
        assert!(std::time::Instant::now() < deadline, "there are {last} descriptors, not {count}");
        last == count
    });
}
