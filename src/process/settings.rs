//! What a forked child sets for itself before its closure runs.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crossproc_sys::signals::{Disposition, dispose};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, chdir, setpgid, setrlimit};
use rustix::thread::set_name;

use super::Builder;

/// A resource of which a process may have a limited amount: `getrlimit(2)` says what each one is.
/// See [`Builder::limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// The address space, in bytes: `RLIMIT_AS`. What is attached, such as a large sparse region,
    /// counts whole.
    AddressSpace,
    /// The size of a core dump, in bytes: `RLIMIT_CORE`.
    Core,
    /// The CPU time, in seconds: `RLIMIT_CPU`.
    CpuTime,
    /// The heap and other private writable memory, in bytes: `RLIMIT_DATA`.
    Data,
    /// The size of a file that is written, a region among them, in bytes: `RLIMIT_FSIZE`.
    FileSize,
    /// Locked memory, in bytes: `RLIMIT_MEMLOCK`.
    Locked,
    /// The descriptors: `RLIMIT_NOFILE`.
    Descriptors,
    /// The processes and threads of the user: `RLIMIT_NPROC`.
    Processes,
    /// The first thread's stack, in bytes: `RLIMIT_STACK`.
    Stack,
}

impl Limit {
    fn resource(self) -> Resource {
        match self {
            Limit::AddressSpace => Resource::As,
            Limit::Core => Resource::Core,
            Limit::CpuTime => Resource::Cpu,
            Limit::Data => Resource::Data,
            Limit::FileSize => Resource::Fsize,
            Limit::Locked => Resource::Memlock,
            Limit::Descriptors => Resource::Nofile,
            Limit::Processes => Resource::Nproc,
            Limit::Stack => Resource::Stack,
        }
    }
}

/// The settings, in the order in which the child makes them.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    group: Option<i32>,
    signals: Vec<(i32, Disposition)>,
    folder: Option<CString>,
    name: Option<CString>,
    limits: Vec<(Limit, u64)>,
    /// What cannot be set, since a text has a byte 0.
    invalid: Option<&'static str>,
}

/// What may fail, each with what the error says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    Group,
    Signal,
    Folder,
    Name,
    Limit,
}

impl Settings {
    pub(super) fn check(&self) -> io::Result<()> {
        match self.invalid {
            None => Ok(()),
            Some(what) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the {what} of a forked child has a byte 0"),
            )),
        }
    }

    /// The child's part. Async-signal-safe.
    pub(super) fn make(&self) -> Result<(), (Setting, Errno)> {
        let failed = |setting| move |errno| (setting, errno);
        if let Some(group) = self.group {
            setpgid(None, Pid::from_raw(group)).map_err(failed(Setting::Group))?;
        }
        for &(signal, disposition) in &self.signals {
            dispose(signal, disposition).map_err(failed(Setting::Signal))?;
        }
        if let Some(folder) = &self.folder {
            chdir(folder.as_c_str()).map_err(failed(Setting::Folder))?;
        }
        if let Some(name) = &self.name {
            set_name(name).map_err(failed(Setting::Name))?;
        }
        for &(limit, most) in &self.limits {
            let most = Rlimit { current: Some(most), maximum: Some(most) };
            setrlimit(limit.resource(), most).map_err(failed(Setting::Limit))?;
        }
        Ok(())
    }

    fn text(&mut self, what: &'static str, text: &OsStr) -> Option<CString> {
        let text = CString::new(text.as_bytes()).ok();
        if text.is_none() {
            self.invalid = Some(what);
        }
        text
    }
}

impl Builder<'_> {
    /// Sets the child's name, as `ps` and `top` show it: the first 15 bytes of it.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = Builder::new().name("counter").fork(|| {
    ///     assert_eq!(std::fs::read_to_string("/proc/self/comm").unwrap(), "counter\n");
    /// })?;
    /// assert!(child.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// This and the settings below are made in the child, before its closure runs. If one cannot be
    /// made, the fork is an error that says which and why, and there is no child. They are for
    /// forked children, a [nursery](Builder::nursery)'s among them. A command has its own.
    #[must_use]
    pub fn name(mut self, name: impl AsRef<OsStr>) -> Self {
        self.settings.name = self.settings.text("name", name.as_ref());
        self
    }

    /// Puts the child into a process group, as `setpgid(2)` does: 0 is a new one, of its own. A
    /// signal that is sent to this process's group, as by the terminal, does not reach it then.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    /// use rustix::process::{getpgrp, getpid};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = Builder::new().process_group(0).fork(|| assert_eq!(getpgrp(), getpid()))?;
    /// assert!(child.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn process_group(mut self, group: i32) -> Self {
        self.settings.group = Some(group);
        self
    }

    /// Sets the child's working directory.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = Builder::new().current_dir("/").fork(|| {
    ///     assert_eq!(std::env::current_dir().unwrap(), std::path::Path::new("/"));
    /// })?;
    /// assert!(child.join()?.success());
    /// let error = Builder::new().current_dir("/no/such/folder").fork(|| ()).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.settings.folder = self.settings.text("working directory", folder.as_ref().as_os_str());
        self
    }

    /// Has the child ignore a signal. Forked children have the dispositions of their parent
    /// otherwise, its handlers among them.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    /// use std::os::unix::process::ExitStatusExt;
    ///
    /// const SIGTERM: i32 = 15;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (child, to_child) =
    ///     Builder::new().ignore_signal(SIGTERM).fork_connected(|parent| drop(parent.recv()))?;
    /// child.terminate()?;
    /// to_child.send(b"go on")?;
    /// assert!(child.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ignore_signal(mut self, signal: i32) -> Self {
        self.settings.signals.push((signal, Disposition::Ignored));
        self
    }

    /// Has the child do what is the default for a signal, in place of the handler that this process
    /// has, or if this process ignores it.
    ///
    /// ```standalone_crate
    /// use crossproc::process::Builder;
    ///
    /// const SIGPIPE: i32 = 13; // which Rust programs ignore
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = Builder::new().default_signal(SIGPIPE).fork(|| ())?;
    /// assert!(child.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn default_signal(mut self, signal: i32) -> Self {
        self.settings.signals.push((signal, Disposition::Default));
        self
    }

    /// Limits a resource of the child, for good: it cannot raise the limit again, unless it is
    /// privileged. See `getrlimit(2)`.
    ///
    /// ```standalone_crate
    /// use crossproc::process::{Builder, Limit};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let child = Builder::new().limit(Limit::Descriptors, 64).limit(Limit::Core, 0).fork(|| {
    ///     let files: Vec<_> = (0..64).map_while(|_| std::fs::File::open("/").ok()).collect();
    ///     assert!(files.len() < 64);
    /// })?;
    /// assert!(child.join()?.success());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn limit(mut self, limit: Limit, most: u64) -> Self {
        self.settings.limits.push((limit, most));
        self
    }
}
