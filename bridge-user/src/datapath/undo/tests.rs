//! Several instances in one process: what counts is who holds a file, not whose process id is in it.

use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::{
    Change::{ClsactAdded, RxVlanOffloadOff},
    *,
};

/// A run folder that is removed again.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xbr-undo-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self) -> Undo {
        Undo::open(&self.0).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn only(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_was_undone_leaves_no_file() {
    let folder = Folder::new("empty");
    let mut undo = folder.open();
    assert_eq!(undo.leftovers(), []);
    undo.forget(3, ClsactAdded);
    assert!(folder.files().is_empty());
    undo.record(3, "eth0", ClsactAdded);
    undo.record(3, "eth0", RxVlanOffloadOff);
    undo.record(4, "tap0", ClsactAdded);
    assert_eq!(folder.only().extension().unwrap(), SUFFIX);
    undo.forget(3, ClsactAdded);
    undo.forget(3, RxVlanOffloadOff);
    folder.only();
    undo.forget(4, ClsactAdded);
    assert!(folder.files().is_empty());
    undo.record(4, "tap0", ClsactAdded);
    folder.only();
}

#[test]
fn a_renamed_device_is_recorded_by_its_new_name() {
    let folder = Folder::new("rename");
    let (mut first, mut second) = (folder.open(), folder.open());
    first.record(3, "eth0", ClsactAdded);
    first.record(4, "tap0", ClsactAdded);
    first.rename(3, "up0");
    first.rename(5, "nobody");
    drop(first);
    let mut found = second.leftovers();
    found.sort();
    assert_eq!(found, [(3, "up0".to_owned(), vec![ClsactAdded]), (4, "tap0".to_owned(), vec![ClsactAdded])]);
}

#[test]
fn a_living_instance_keeps_its_own_and_a_dead_ones_is_found_once() {
    let folder = Folder::new("dead");
    let (mut first, mut second, mut third) = (folder.open(), folder.open(), folder.open());
    first.record(3, "eth0", ClsactAdded);
    first.record(3, "eth0", RxVlanOffloadOff);
    first.record(5, "tap5", ClsactAdded);
    first.forget(5, ClsactAdded);
    second.record(4, "tap0", ClsactAdded);
    assert_eq!(third.leftovers(), []);
    assert_eq!(folder.files().len(), 2);

    drop(first);
    assert_eq!(second.leftovers(), [(3, "eth0".to_owned(), vec![ClsactAdded, RxVlanOffloadOff])]);
    assert_eq!(second.leftovers(), []);
    assert_eq!(third.leftovers(), []);
    folder.only();

    // It dies after it put back one of two.
    second.forget(3, ClsactAdded);
    drop(second);
    let mut expected = third.leftovers();
    expected.sort();
    assert_eq!(expected, [(3, "eth0".to_owned(), vec![RxVlanOffloadOff]), (4, "tap0".to_owned(), vec![ClsactAdded])]);
    third.forget(3, RxVlanOffloadOff);
    third.forget(4, ClsactAdded);
    assert!(folder.files().is_empty());
}

#[test]
fn several_dead_instances_are_merged() {
    let folder = Folder::new("merge");
    let (mut first, mut second) = (folder.open(), folder.open());
    first.record(3, "eth0", ClsactAdded);
    second.record(3, "eth0", RxVlanOffloadOff);
    drop((first, second));
    let mut third = folder.open();
    assert_eq!(third.leftovers(), [(3, "eth0".to_owned(), vec![ClsactAdded, RxVlanOffloadOff])]);
    folder.only();
}

#[test]
fn what_names_another_device_is_kept_apart() {
    let folder = Folder::new("names");
    let mut undo = folder.open();
    undo.record(3, "eth0", ClsactAdded);
    undo.record(3, "tap7", ClsactAdded);
    drop(undo);
    let mut undo = folder.open();
    assert_eq!(undo.leftovers().len(), 2);
    undo.forget(3, ClsactAdded);
    assert!(folder.files().is_empty());
}

#[test]
fn damaged_files_are_removed_and_harm_nothing() {
    let folder = Folder::new("damaged");
    let mut undo = folder.open();
    undo.record(3, "eth0", RxVlanOffloadOff);
    drop(undo);
    let path = folder.only();
    let whole = fs::read(&path).unwrap();
    let mut reader = folder.open();
    // The last byte is the line's end.
    for end in 0..whole.len() - 1 {
        fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(reader.leftovers(), [], "{end}");
        assert!(!path.exists(), "{end}");
    }
    for junk in ["null", "[]", "\u{0}", r#"{"boot":1}"#] {
        fs::write(&path, junk).unwrap();
        assert_eq!(reader.leftovers(), []);
        assert!(!path.exists());
    }
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(reader.leftovers(), []);
    assert!(!path.exists());
}

#[test]
fn another_boot_or_namespace_left_nothing_to_undo() {
    let folder = Folder::new("boot");
    for (key, value) in [("boot", serde_json::json!("other")), ("netns_cookie", serde_json::json!(1_u64 << 60))] {
        let mut undo = folder.open();
        undo.record(3, "eth0", RxVlanOffloadOff);
        drop(undo);
        let path = folder.only();
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record[key] = value;
        fs::write(&path, record.to_string()).unwrap();
        assert_eq!(folder.open().leftovers(), []);
        assert!(folder.files().is_empty());
    }
}

#[test]
fn files_of_others_are_not_touched() {
    let folder = Folder::new("others");
    let mut undo = folder.open();
    let netns = undo.netns;
    let names = [
        format!("{}-7-1.undo", netns + 1),
        format!("{netns}-7.sock"),
        "junk.undo".into(),
        format!("{netns}-8-1.undo-new"),
    ];
    for name in &names {
        fs::write(folder.0.join(name), "x").unwrap();
    }
    fs::create_dir(folder.0.join(format!("{netns}-9-1.undo"))).unwrap();
    let old = folder.0.join(format!("{netns}-10-1.undo-new"));
    let file = File::create(&old).unwrap();
    file.set_modified(SystemTime::now() - 2 * STALE).unwrap();
    assert_eq!(undo.leftovers(), []);
    assert!(!old.exists());
    assert_eq!(folder.files().len(), names.len() + 1);
}

#[test]
fn a_folder_that_cannot_be_written_is_no_panic() {
    let folder = Folder::new("gone");
    let mut undo = folder.open();
    fs::remove_dir_all(&folder.0).unwrap();
    undo.record(3, "eth0", ClsactAdded);
    assert_eq!(undo.leftovers(), []);
    undo.forget(3, ClsactAdded);
    fs::write(&folder.0, "a file").unwrap();
    assert!(Undo::open(&folder.0).is_err());
    fs::remove_file(&folder.0).unwrap();
}

#[test]
fn many_that_ask_at_once_get_each_change_once() {
    let folder = Folder::new("race");
    for round in 0..20 {
        let mut dead: Vec<Undo> = (0..4).map(|_| folder.open()).collect();
        for (index, undo) in (1..).zip(&mut dead) {
            undo.record(index, "eth", ClsactAdded);
        }
        drop(dead);
        let mut askers: Vec<Undo> = (0..4).map(|_| folder.open()).collect();
        let mut found: Vec<IfIndex> = thread::scope(|scope| {
            let threads: Vec<_> = askers.iter_mut().map(|undo| scope.spawn(|| undo.leftovers())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).map(|(ifindex, ..)| ifindex).collect()
        });
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3, 4], "{round}");
        for undo in &mut askers {
            (1..=4).for_each(|ifindex| undo.forget(ifindex, ClsactAdded));
        }
        assert!(folder.files().is_empty());
    }
}

#[test]
fn a_namespace_sees_its_own_devices_only() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let folder = Folder::new("netns");
    let mut undo = folder.open();
    undo.record(3, "eth0", ClsactAdded);
    drop(undo);
    thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut inner = folder.open();
            assert_eq!(inner.leftovers(), []);
            inner.record(3, "eth0", RxVlanOffloadOff);
        });
    });
    assert_eq!(folder.files().len(), 2);
    assert_eq!(folder.open().leftovers(), [(3, "eth0".to_owned(), vec![ClsactAdded])]);
}

/// The process that records is killed, as in a crash; this test runs itself as that process.
#[test]
fn a_killed_process_is_dead() {
    const FOLDER: &str = "XBR_TEST_UNDO_FOLDER";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let mut undo = Undo::open(Path::new(&folder)).unwrap();
        undo.record(3, "eth0", ClsactAdded);
        loop {
            thread::park();
        }
    }
    let folder = Folder::new("killed");
    let mut undo = folder.open();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["a_killed_process_is_dead", "--nocapture"])
        .env(FOLDER, &folder.0)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..500 {
        if folder.files().iter().any(|path| path.extension() == Some(OsStr::new(SUFFIX))) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    folder.only();
    assert_eq!(undo.leftovers(), []);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(undo.leftovers(), [(3, "eth0".to_owned(), vec![ClsactAdded])]);
}
