//! On hand-made BTF, on damaged BTF, and on the running kernel's, where `bpftool` gives the expected values.

use std::{process::Command, time::Instant};

use super::{
    format::{BTF_MAGIC, BTF_VERSION, KIND_CONST, KIND_ENUM, KIND_STRUCT, KIND_TYPEDEF, KIND_UNION, KIND_VOLATILE},
    *,
};

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;

/// Builds a section. Ids and string offsets continue those of a base.
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next_id: u32,
    first_string: u32,
}

impl Builder {
    fn base() -> Self {
        Self { types: Vec::new(), strings: vec![0], next_id: 1, first_string: 0 }
    }

    fn split(base: &Section) -> Self {
        Self { types: Vec::new(), strings: Vec::new(), next_id: base.end_id(), first_string: base.end_string() }
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    fn text(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = self.first_string + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(text.bytes().chain([0]));
        offset
    }

    fn record(&mut self, name: &str, info: u32, size_or_type: u32) -> u32 {
        let name = self.text(name);
        self.words(&[name, info, size_or_type]);
        self.next_id += 1;
        self.next_id - 1
    }

    fn int(&mut self, name: &str) -> u32 {
        let id = self.record(name, KIND_INT << 24, 4);
        self.words(&[32]);
        id
    }

    fn alias(&mut self, kind: u32, name: &str, target: u32) -> u32 {
        self.record(name, kind << 24, target)
    }

    /// Members are name, type, offset as encoded.
    fn composite(&mut self, kind: u32, name: &str, flagged: bool, members: &[(&str, u32, u32)]) -> u32 {
        let count = u32::try_from(members.len()).unwrap();
        let id = self.record(name, u32::from(flagged) << 31 | kind << 24 | count, 64);
        for (name, type_id, offset) in members {
            let name = self.text(name);
            self.words(&[name, *type_id, *offset]);
        }
        id
    }

    fn bytes(&self) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let mut all = BTF_MAGIC.to_ne_bytes().to_vec();
        all.extend([BTF_VERSION, 0]);
        for word in [24, 0, length(&self.types), length(&self.types), length(&self.strings)] {
            all.extend(word.to_ne_bytes());
        }
        all.extend(&self.types);
        all.extend(&self.strings);
        all
    }
}

/// `entry { word; const volatile key_t key; union { word; struct { word lo; word hi; } }; word flag:1; pointer }`
/// after one type of each other kind.
fn base() -> Vec<u8> {
    let mut builder = Builder::base();
    let word = builder.int("word");
    for (kind, extra) in [(3, 3), (6, 2), (7, 0), (12, 0), (13, 2), (14, 1), (15, 3), (16, 0), (17, 1), (19, 3)] {
        builder.record("other", kind << 24 | 1, word);
        builder.words(&vec![0; extra]);
    }
    let key = builder.composite(KIND_STRUCT, "key", false, &[("addr", word, 0), ("vlan", word, 48)]);
    let key = builder.alias(KIND_TYPEDEF, "key_t", key);
    let key = builder.alias(KIND_VOLATILE, "", key);
    let key = builder.alias(KIND_CONST, "", key);
    let halves = builder.composite(KIND_STRUCT, "", false, &[("lo", word, 0), ("hi", word, 32)]);
    let either = builder.composite(KIND_UNION, "", false, &[("whole", word, 0), ("", halves, 0)]);
    let pointer = builder.alias(KIND_PTR, "", key);
    let members = [
        ("first", word, 0),
        ("key", key, 64),
        ("", word, 2 << 24 | 0xa0),
        ("", either, 192),
        ("flag", word, 1 << 24 | 0x100),
        ("pointer", pointer, 320),
    ];
    builder.composite(KIND_STRUCT, "entry", true, &members);
    builder.bytes()
}

fn alone(bytes: Vec<u8>) -> Btf {
    Btf { base: Section::parse(bytes, 1, 0).unwrap(), split: None }
}

fn error(btf: &Btf, structure: &str, path: &[&str]) -> String {
    btf.member_offset(structure, path).unwrap_err().to_string()
}

#[test]
fn members_are_found_through_typedefs_qualifiers_and_anonymous_members() {
    let btf = alone(base());
    let offset = |path: &[&str]| btf.member_offset("entry", path).unwrap();
    assert_eq!(offset(&[]), 0);
    assert_eq!(offset(&["first"]), 0);
    assert_eq!(offset(&["key"]), 8);
    assert_eq!(offset(&["key", "addr"]), 8);
    assert_eq!(offset(&["key", "vlan"]), 14);
    assert_eq!(offset(&["whole"]), 24);
    assert_eq!(offset(&["lo"]), 24);
    assert_eq!(offset(&["hi"]), 28);
    assert_eq!(offset(&["pointer"]), 40);
}

#[test]
fn each_error_names_what_it_is_about() {
    let btf = alone(base());
    assert_eq!(error(&btf, "nothing", &["key"]), "the kernel's BTF has no structure nothing");
    assert_eq!(error(&btf, "word", &[]), "the kernel's BTF has no structure word");
    assert_eq!(error(&btf, "entr", &[]), "the kernel's BTF has no structure entr");
    assert_eq!(error(&btf, "entry", &["key", "port"]), "the kernel's BTF has no member port in entry.key");
    assert_eq!(error(&btf, "entry", &["ke"]), "the kernel's BTF has no member ke in entry");
    assert_eq!(error(&btf, "entry", &[""]), "the kernel's BTF has no member  in entry");
    assert_eq!(error(&btf, "entry", &["first", "x"]), "entry.first has no members in the kernel's BTF");
    assert_eq!(error(&btf, "entry", &["pointer", "addr"]), "entry.pointer has no members in the kernel's BTF");
    assert_eq!(error(&btf, "entry", &["flag"]), "entry.flag is a bit field in the kernel's BTF");
}

#[test]
fn an_offset_that_is_no_whole_byte_is_a_bit_field() {
    let mut builder = Builder::base();
    let word = builder.int("word");
    builder.composite(KIND_STRUCT, "odd", false, &[("bit", word, 9), ("far", word, u32::MAX - 7)]);
    let btf = alone(builder.bytes());
    assert_eq!(error(&btf, "odd", &["bit"]), "odd.bit is a bit field in the kernel's BTF");
    assert_eq!(btf.member_offset("odd", &["far"]).unwrap(), (u32::MAX - 7) / 8);
}

#[test]
fn sizes_and_constants() {
    let mut builder = Builder::base();
    let word = builder.int("word");
    builder.composite(KIND_STRUCT, "entry", false, &[("first", word, 0)]);
    for constants in [&[("RED", 3), ("GREEN", 5)][..], &[("BLUE", 9)]] {
        builder.record("", KIND_ENUM << 24 | u32::try_from(constants.len()).unwrap(), 4);
        for (name, value) in constants {
            let name = builder.text(name);
            builder.words(&[name, *value]);
        }
    }
    let btf = alone(builder.bytes());
    assert_eq!(btf.size("entry").unwrap(), 64);
    assert_eq!(btf.size("word").unwrap_err().to_string(), "the kernel's BTF has no structure word");
    let wanted = BTreeMap::from([("RED".to_owned(), 3), ("GREEN".to_owned(), 5)]);
    assert_eq!(btf.enumeration("GREEN").unwrap(), wanted);
    assert_eq!(btf.enumeration("GREE").unwrap_err().to_string(), "the kernel's BTF has no constant GREE");
}

#[test]
fn split_btf_continues_the_base() {
    let base = Section::parse(base(), 1, 0).unwrap();
    let key = (1..base.end_id()).find(|id| base.record(*id).unwrap().kind() == KIND_CONST).unwrap();
    let mut builder = Builder::split(&base);
    let own = builder.alias(KIND_TYPEDEF, "own_t", key);
    builder.composite(KIND_STRUCT, "module_entry", false, &[("pad", 1, 0), ("own", own, 128)]);
    // Shadows the base's, as a module's own structure of that name does.
    builder.composite(KIND_STRUCT, "entry", false, &[("first", 1, 800)]);
    let folder = std::env::temp_dir().join(format!("xbr-btf-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("vmlinux"), &base.data).unwrap();
    fs::write(folder.join("bridge"), builder.bytes()).unwrap();

    let btf = Btf::load_from(&folder, "bridge").unwrap();
    assert_eq!(btf.member_offset("module_entry", &["own", "vlan"]).unwrap(), 22);
    assert_eq!(btf.member_offset("entry", &["first"]).unwrap(), 100);
    assert_eq!(btf.member_offset("entry", &["key"]).unwrap(), 8, "the base's, where the module's does not fit");
    let builtin = Btf::load_from(&folder, "absent").unwrap();
    assert_eq!(builtin.member_offset("entry", &["first"]).unwrap(), 0);

    fs::write(folder.join("bridge"), b"junk").unwrap();
    let text = Btf::load_from(&folder, "bridge").err().unwrap().to_string();
    assert_eq!(text, format!("{}/bridge: malformed BTF: it does not begin with the magic number", folder.display()));
    fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(Btf::load_from(&folder, "bridge"), Err(BtfError::Read { .. })));
}

#[test]
fn every_truncation_is_an_error() {
    let whole = base();
    for end in 0..whole.len() {
        assert!(Section::parse(whole[..end].to_vec(), 1, 0).is_err(), "{end}");
    }
}

#[test]
fn no_damaged_byte_makes_it_panic() {
    let whole = base();
    let split = {
        let base = Section::parse(base(), 1, 0).unwrap();
        let mut builder = Builder::split(&base);
        builder.composite(KIND_STRUCT, "module_entry", true, &[("pad", 1, 0), ("key", 17, 128)]);
        builder.bytes()
    };
    for index in 0..whole.len() + split.len() {
        for value in [0, 1, 4, 8, 0x7f, 0x80, 0xff] {
            let (mut base, mut split) = (whole.clone(), split.clone());
            match index.checked_sub(base.len()) {
                None => base[index] = value,
                Some(index) => split[index] = value,
            }
            let Ok(base) = Section::parse(base, 1, 0) else { continue };
            let Ok(split) = Section::parse(split, base.end_id(), base.end_string()) else {
                continue;
            };
            let btf = Btf { base, split: Some(split) };
            for (structure, path) in
                [("entry", ["key", "vlan"]), ("entry", ["hi", "x"]), ("module_entry", ["key", "x"])]
            {
                let _ = btf.member_offset(structure, &path);
            }
        }
    }
}

#[test]
fn types_that_contain_themselves_end() {
    let mut builder = Builder::base();
    let own = builder.next_id;
    builder.alias(KIND_TYPEDEF, "loop_t", own);
    builder.composite(KIND_STRUCT, "typedefs", false, &[("", own, 0)]);
    let own = builder.next_id;
    builder.composite(KIND_STRUCT, "nest", false, &[("", own, 0)]);
    // A hundred ways in at each of thirty levels.
    let mut inner = builder.composite(KIND_STRUCT, "", false, &[]);
    for _ in 0..30 {
        inner = builder.composite(KIND_STRUCT, "", false, &[("", inner, 0); 100]);
    }
    builder.composite(KIND_STRUCT, "wide", false, &[("", inner, 0)]);
    builder.composite(KIND_STRUCT, "lost", false, &[("", 9999, 0)]);
    let btf = alone(builder.bytes());
    assert_eq!(error(&btf, "typedefs", &["x"]), "typedefs: malformed BTF: a chain of typedefs has no end");
    assert_eq!(error(&btf, "nest", &["x"]), "nest: malformed BTF: its anonymous members nest too deeply");
    assert_eq!(error(&btf, "wide", &["x"]), "wide: malformed BTF: its members have no end");
    assert_eq!(error(&btf, "lost", &["x"]), "lost: malformed BTF: a type id points nowhere");
}

#[test]
fn unknown_versions_and_kinds_are_refused() {
    let mut bytes = base();
    bytes[2] = 2;
    assert_eq!(Section::parse(bytes, 1, 0).err(), Some("its version is unknown"));
    let mut builder = Builder::base();
    builder.record("new", 20 << 24, 0);
    assert_eq!(Section::parse(builder.bytes(), 1, 0).err(), Some("a kind of type is unknown"));
    assert_eq!(Section::parse(base(), u32::MAX, 0).err(), Some("too many types"));
    assert_eq!(Section::parse(base(), 1, u32::MAX).err(), Some("too many strings"));
}

/// The members of a structure as `bpftool btf dump` lists them: name, type id, offset in bits.
fn dumped(dump: &str, structure: &str) -> Option<Vec<(String, u32, u32)>> {
    let head = format!("STRUCT '{structure}' ");
    let mut lines = dump.lines().skip_while(|line| !line.contains(&head));
    lines.next()?;
    let members = lines.take_while(|line| line.starts_with('\t')).filter_map(|line| {
        let name = line.split('\'').nth(1)?.to_owned();
        let number = |key| line.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok());
        Some((name, number("type_id=")?, number("bits_offset=")?))
    });
    Some(members.collect())
}

#[test]
fn the_running_kernel_agrees_with_bpftool() {
    let module = Path::new(BTF_FOLDER).join("bridge");
    let vmlinux = Path::new(BTF_FOLDER).join("vmlinux");
    let mut bpftool = Command::new("bpftool");
    if module.exists() {
        bpftool.arg("-B").arg(&vmlinux).args(["btf", "dump", "file"]).arg(&module);
    } else {
        bpftool.args(["btf", "dump", "file"]).arg(&vmlinux);
    }
    let dump = match bpftool.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => {
            println!("skipped: bpftool: {}", String::from_utf8_lossy(&output.stderr).trim());
            return;
        }
        Err(error) => {
            println!("skipped: bpftool: {error}");
            return;
        }
    };
    let (Some(entry), Some(key)) = (dumped(&dump, "net_bridge_fdb_entry"), dumped(&dump, "net_bridge_fdb_key")) else {
        println!("skipped: the kernel has no bridge, or its module is not loaded");
        return;
    };
    let bits = |members: &[(String, u32, u32)], name| members.iter().find(|member| member.0 == name).unwrap().2;
    let start = Instant::now();
    let btf = Btf::load("bridge").unwrap();
    for member in ["addr", "vlan_id"] {
        let expected = (bits(&entry, "key") + bits(&key, member)) / 8;
        assert_eq!(btf.member_offset("net_bridge_fdb_entry", &["key", member]).unwrap(), expected, "{member}");
        println!("net_bridge_fdb_entry.key.{member}: {expected}");
    }
    println!("both in {:?}", start.elapsed());
    for (member, _, bits) in entry.iter().filter(|member| member.0 != "(anon)" && member.2.is_multiple_of(8)) {
        assert_eq!(member_offset("net_bridge_fdb_entry", &[member], "bridge").unwrap(), bits / 8, "{member}");
    }
}
