//! A panic that unwinds through a guard is its owner's death, by the rules of std's poisoning.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use crossproc::{Condition, Lock, LockError, RLock, RwLock, Shm, Wait, shared};

mod forked;
use forked::{PATIENCE, fork};

shared! {
    struct Account {
        lock: Lock<[u64; 2]>,
        rlock: RLock<[u64; 2]>,
        rwlock: RwLock<[u64; 2], 4>,
        condition: Condition,
    }
}

fn account() -> Shm<Account> {
    let whole = [100, 0];
    Shm::new(Account {
        lock: Lock::new(whole),
        rlock: RLock::new(whole),
        rwlock: RwLock::new(whole),
        condition: Condition::new(),
    })
    .unwrap()
}

/// Panics without a message on the standard error.
fn panic() {
    resume_unwind(Box::new("a bug"));
}

/// Catches the panic of `act`.
fn caught(act: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(act)).is_err(), "it panics");
}

fn owner_died<G>(result: &Result<G, LockError>) -> bool {
    matches!(result, Err(LockError::OwnerDied))
}

#[test]
fn a_panic_in_another_process_is_told_like_a_kill() {
    let account = account();
    let acts: [fn(&Account); 3] = [
        |account| {
            let mut both = account.lock.lock().unwrap();
            both[0] -= 10;
            panic();
            both[1] += 10;
        },
        |account| {
            let both = account.rlock.lock().unwrap();
            both.set([90, 0]);
            panic();
            both.set([90, 10]);
        },
        |account| {
            let mut both = account.rwlock.write().unwrap();
            both[0] -= 10;
            panic();
            both[1] += 10;
        },
    ];
    for act in acts {
        let theirs = account.clone();
        let child = fork(move || act(&theirs));
        assert_eq!(child.join_timeout(PATIENCE).unwrap().code(), Some(101));
    }
    assert!(owner_died(&account.lock.lock()));
    let guard = account.lock.lock_unrepaired(Wait::FOREVER).unwrap();
    assert_eq!(*guard, [90, 0]);
    assert!(owner_died(&account.rlock.lock()));
    let guard = account.rlock.lock_unrepaired(Wait::FOREVER).unwrap();
    assert_eq!(guard.get(), [90, 0]);
    // Readers are told as well as writers, until a writer has recovered it.
    assert!(owner_died(&account.rwlock.read()) && owner_died(&account.rwlock.write()));
    let guard = account.rwlock.write_unrepaired(Wait::FOREVER).unwrap();
    assert_eq!(*guard, [90, 0]);
    drop(guard.recover());
    assert!(account.rwlock.read().is_ok());
}

#[test]
fn one_that_is_caught_while_the_guard_is_held_is_not() {
    let account = account();
    let (guard, rguard) = (account.lock.lock().unwrap(), account.rlock.lock().unwrap());
    let wguard = account.rwlock.write().unwrap();
    caught(panic);
    drop((guard, rguard, wguard));
    assert!(
        account.lock.lock().is_ok()
            && account.rlock.lock().is_ok()
            && account.rwlock.write().is_ok()
    );
}

#[test]
fn one_that_had_begun_before_the_guard_was_taken_is_not() {
    struct Locks<'a>(&'a Account);
    impl Drop for Locks<'_> {
        fn drop(&mut self) {
            assert!(thread::panicking());
            self.0.lock.lock().unwrap()[1] += 1;
            self.0.rlock.lock().unwrap().set([1, 1]);
            self.0.rwlock.write().unwrap()[1] += 1;
        }
    }
    let account = account();
    caught(|| {
        let _locks = Locks(&account);
        panic();
    });
    assert!(
        account.lock.lock().is_ok()
            && account.rlock.lock().is_ok()
            && account.rwlock.write().is_ok()
    );
}

#[test]
fn a_reader_that_panics_has_changed_nothing() {
    let account = account();
    caught(|| {
        let _one = account.rwlock.read().unwrap();
        panic();
    });
    assert!(account.rwlock.write().is_ok());
}

#[test]
fn a_guard_can_ignore_panics() {
    let account = account();
    caught(|| {
        let _guards = (
            account.lock.lock().unwrap().ignore_panics(),
            account.rlock.lock().unwrap().ignore_panics(),
            account.rwlock.write().unwrap().ignore_panics(),
        );
        panic();
    });
    assert!(
        account.lock.lock().is_ok()
            && account.rlock.lock().is_ok()
            && account.rwlock.write().is_ok()
    );
}

#[test]
fn a_guard_that_ignores_panics_still_passes_a_death_on() {
    let account = account();
    caught(|| {
        let _guard = account.lock.lock().unwrap();
        panic();
    });
    caught(|| {
        let guard = account.lock.lock_unrepaired(Wait::FOREVER).unwrap();
        let _guard = guard.ignore_panics();
        panic();
    });
    assert!(owner_died(&account.lock.lock()));
}

#[test]
fn an_inner_guard_of_an_rlock_tells_the_outer_one_which_may_recover() {
    let account = account();
    let outer = account.rlock.lock().unwrap();
    caught(|| {
        let inner = account.rlock.lock().unwrap();
        inner.set([90, 0]);
        panic();
    });
    assert!(outer.is_inconsistent());
    assert!(owner_died(&account.rlock.lock()), "another inner guard is told, too");
    outer.set([90, 10]);
    let outer = outer.recover();
    assert!(!outer.is_inconsistent() && account.rlock.lock().is_ok());
    drop(outer);
    assert!(account.rlock.lock().is_ok());
    // Without a recovery, the next owner is told.
    let outer = account.rlock.lock().unwrap();
    caught(|| {
        let _inner = account.rlock.lock().unwrap();
        panic();
    });
    drop(outer);
    assert!(owner_died(&account.rlock.lock()));
}

#[test]
fn a_condition_that_panics_does_so_with_the_lock_held() {
    let account = account();
    caught(|| {
        let mut guard = account.lock.lock().unwrap();
        let _ = account.condition.wait_while(&mut guard, |_| {
            panic();
            false
        });
    });
    assert!(owner_died(&account.lock.lock()));
    // A guard that outlives the panic does not count as its owner's death.
    let guard = account.lock.lock_unrepaired(Wait::FOREVER).unwrap();
    assert!(guard.is_inconsistent(), "it is told until it is recovered");
    let mut guard = guard.recover();
    caught(|| {
        let _ = account.condition.wait_while(&mut guard, |_| {
            panic();
            false
        });
    });
    drop(guard);
    assert!(account.lock.lock().is_ok());
}

#[test]
fn a_thread_that_panics_tells_the_next_one() {
    let account = account();
    let theirs = account.clone();
    let panicked = thread::spawn(move || {
        let _guard = theirs.lock.lock().unwrap();
        panic();
    });
    assert!(panicked.join().is_err());
    assert!(owner_died(&account.lock.lock()));
}

#[test]
fn a_repair_is_for_all_who_come_later_and_is_made_once() {
    let account = account();
    caught(|| {
        let _held = (account.lock.lock().unwrap(), account.rwlock.write().unwrap());
        panic();
    });
    caught(|| {
        let _held = account.rlock.lock().unwrap();
        panic();
    });
    // A repair that does not come to its end is none.
    caught(|| drop(account.lock.lock_or_repair(|_| panic())));
    caught(|| drop(account.rlock.lock_or_repair(|_| panic())));
    caught(|| drop(account.rwlock.write_or_repair(|_| panic())));
    let mut repairs = [0; 3];
    for _ in 0..2 {
        drop(account.lock.lock_or_repair(|_| repairs[0] += 1).unwrap());
        drop(account.rlock.lock_or_repair(|_| repairs[1] += 1).unwrap());
        drop(account.rwlock.write_or_repair(|_| repairs[2] += 1).unwrap());
    }
    assert_eq!(repairs, [1; 3]);
    assert!(account.lock.lock().is_ok() && account.rlock.lock().is_ok());
    assert!(account.rwlock.read().is_ok());
}
