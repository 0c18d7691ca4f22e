//! Users that are allowed to look names up, or to put them, and users that are not.

use crossproc::directory::{ConnectOptions, DirectoryClient, DirectoryError, DirectoryOptions};
use crossproc::{Event, Shm};
use rustix::process::geteuid;

use super::event;
use crate::forked::{PATIENCE, fork, join_all, kill};
use crate::served::{Folder, abstract_address, alone, client, serve, serve_with_client};

/// A user that none of the tests' processes runs as.
const NOBODY: u32 = 65_534;

/// Runs `body` as another user, which only root can. Returns whether it could.
fn as_nobody(body: impl FnOnce() + Send) -> bool {
    let is_root = geteuid().is_root();
    if is_root {
        join_all([fork(move || {
            // SAFETY: changes the user of this process, which has one thread.
            assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
            body();
        })]);
    } else {
        println!("not run as root: the refusal of another user was not tried");
    }
    is_root
}

#[test]
fn a_user_does_what_it_is_allowed_to() {
    let folder = Folder::new();
    rustix::fs::chmod(folder.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    alone(|| {
        let own = geteuid().as_raw();
        let ours = event();
        for address in [folder.socket(), abstract_address()] {
            let refused = |result: Result<DirectoryClient, DirectoryError>, uid: u32| match result {
                Err(DirectoryError::Unwelcome { why }) => {
                    assert!(why.contains(&uid.to_string()), "{why}");
                }
                other => panic!("{other:?}"),
            };
            // At a path, another user does not even reach the server.
            let (server, _client) = serve_with_client(&address);
            as_nobody(|| match ConnectOptions::new().connect(&address) {
                Err(DirectoryError::Os { source, .. }) => {
                    assert!(address.path().is_some(), "{source}");
                }
                result => refused(result, NOBODY),
            });
            kill(&server);
            // Another user is allowed, and this one is not.
            let server = serve(&address, DirectoryOptions::new().allow_lookup(NOBODY + 1));
            let _client = client(&address);
            as_nobody(|| refused(ConnectOptions::new().connect(&address), NOBODY));
            kill(&server);
            let server = serve(&address, DirectoryOptions::new().allow_lookup(NOBODY));
            let mut first = client(&address);
            first.put("x", &ours).unwrap();
            as_nobody(|| {
                let mut client = client(&address);
                let theirs: Shm<Event> = client.get("x").unwrap();
                theirs.set();
                assert!(matches!(client.put("y", &theirs), Err(DirectoryError::NotAllowed)));
                assert!(matches!(
                    client.get_or_put("y", || Ok(event())),
                    Err(DirectoryError::NotAllowed)
                ));
                assert!(matches!(client.remove("x"), Err(DirectoryError::NotYours { .. })));
            });
            kill(&server);
            let server = serve(&address, DirectoryOptions::new().allow_put(NOBODY));
            let _client = client(&address);
            as_nobody(|| client(&address).put("y", &event()).unwrap());
            kill(&server);
            // The server refuses its own user, which may be any.
            let server = serve(&address, DirectoryOptions::new().deny(own));
            refused(DirectoryClient::connect_timeout(&address, PATIENCE), own);
            kill(&server);
            let server = serve(&address, DirectoryOptions::new().deny(own).allow_lookup(own));
            assert!(matches!(client(&address).put("y", &ours), Err(DirectoryError::NotAllowed)));
            kill(&server);
        }
    });
}

#[test]
fn a_server_of_another_user_is_not_believed() {
    alone(|| {
        let own = geteuid().as_raw();
        let address = abstract_address();
        let (server, _client) = serve_with_client(&address);
        match ConnectOptions::new().distrust(own).connect(&address) {
            Err(DirectoryError::UntrustedServer { uid, pid, .. }) => {
                assert_eq!((uid, pid), (own, server.id()));
            }
            other => panic!("{other:?}"),
        }
        kill(&server);
        if !geteuid().is_root() {
            return;
        }
        let theirs = address.clone();
        let squatter = fork(move || {
            // SAFETY: changes the user of this process, which has one thread.
            assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
            DirectoryOptions::new().allow_lookup(0).bind(&theirs).unwrap().serve().unwrap();
        });
        match DirectoryClient::connect_timeout(&address, PATIENCE) {
            Err(DirectoryError::UntrustedServer { uid, pid, .. }) => {
                assert_eq!((uid, pid), (NOBODY, squatter.id()));
            }
            other => panic!("{other:?}"),
        }
        ConnectOptions::new().trust(NOBODY).connect(&address).unwrap().list("").unwrap();
    });
}
