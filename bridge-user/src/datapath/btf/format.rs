//! The records and strings of one file of BTF.

pub(super) const BTF_MAGIC: u16 = 0xeb9f;
pub(super) const BTF_VERSION: u8 = 1;
/// `struct btf_header` and `struct btf_type` in bytes.
const HEADER: usize = 24;
const TYPE: usize = 12;
/// `struct btf_member` in bytes.
const MEMBER: usize = 12;

pub(super) const KIND_STRUCT: u32 = 4;
pub(super) const KIND_UNION: u32 = 5;
pub(super) const KIND_ENUM: u32 = 6;
pub(super) const KIND_TYPEDEF: u32 = 8;
pub(super) const KIND_VOLATILE: u32 = 9;
pub(super) const KIND_CONST: u32 = 10;
pub(super) const KIND_RESTRICT: u32 = 11;
pub(super) const KIND_FUNCTION: u32 = 12;
pub(super) const KIND_TYPE_TAG: u32 = 18;

/// A member as `struct btf_member` describes it.
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) type_id: u32,
    /// Offset in bits.
    pub(super) bits: u64,
    pub(super) is_bit_field: bool,
}

/// One type: `struct btf_type` and the data behind it.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) name: u32,
    info: u32,
    size_or_type: u32,
    extra: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the type at the start of `bytes`; the error says what is wrong with it.
    fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let word = |offset| u32_at(bytes, offset).ok_or("a type is cut off");
        let mut record = Self { name: word(0)?, info: word(4)?, size_or_type: word(8)?, extra: &[] };
        let length = record.extra_len().ok_or("a kind of type is unknown")?;
        record.extra = bytes.get(TYPE..TYPE + length).ok_or("a type is cut off")?;
        Ok(record)
    }

    pub(super) fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// The type that a typedef or a qualifier stands for.
    pub(super) fn alias_of(&self) -> Option<u32> {
        let alias = matches!(self.kind(), KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG);
        alias.then_some(self.size_or_type)
    }

    pub(super) fn is_composite(&self) -> bool {
        matches!(self.kind(), KIND_STRUCT | KIND_UNION)
    }

    /// The size in bytes of a structure or union.
    pub(super) fn size(&self) -> Option<u32> {
        self.is_composite().then_some(self.size_or_type)
    }

    /// The constants of an enumeration of 32 bits, each after its name's offset.
    pub(super) fn enumerators(self) -> impl Iterator<Item = (u32, u32)> {
        let extra = if self.kind() == KIND_ENUM { self.extra } else { &[] };
        let (constants, _) = extra.as_chunks::<8>();
        constants.iter().filter_map(|raw| Some((u32_at(raw, 0)?, u32_at(raw, 4)?)))
    }

    /// The length in bytes of what follows `struct btf_type`; `None` if the kind is unknown.
    fn extra_len(&self) -> Option<usize> {
        let count = to_usize(self.info & 0xffff);
        Some(match self.kind() {
            // Pointer, forward declaration, typedef and qualifiers, function, float, type tag.
            2 | 7 | KIND_TYPEDEF..=KIND_FUNCTION | 16 | KIND_TYPE_TAG => 0,
            // Integer, variable, declaration tag.
            1 | 14 | 17 => 4,
            // Array.
            3 => 12,
            KIND_STRUCT | KIND_UNION => count * MEMBER,
            // Enumeration, function prototype.
            KIND_ENUM | 13 => count * 8,
            // Data section, 64-bit enumeration.
            15 | 19 => count * 12,
            _ => return None,
        })
    }

    /// The members of a structure or union, each after its name's offset.
    pub(super) fn members(self) -> impl Iterator<Item = (u32, Member)> {
        // BTF_INFO_KFLAG: the offset's highest byte is the width of a bit field.
        let flagged = self.info >> 31 == 1;
        let (members, _) = self.extra.as_chunks::<MEMBER>();
        members.iter().filter_map(move |raw| {
            let (name, type_id, offset) = (u32_at(raw, 0)?, u32_at(raw, 4)?, u32_at(raw, 8)?);
            let (width, bits) = if flagged { (offset >> 24, offset & 0xff_ffff) } else { (0, offset) };
            Some((name, Member { type_id, bits: u64::from(bits), is_bit_field: width != 0 }))
        })
    }
}

/// One file of BTF.
pub(super) struct Section {
    pub(super) data: Vec<u8>,
    /// Where in `data` each type begins, in order of the ids.
    starts: Vec<usize>,
    /// Where those of them begin that are structures or unions, one type in ten.
    composites: Vec<usize>,
    /// The id of the first type.
    pub(super) first_id: u32,
    /// Where in `data` the strings begin and end.
    strings: (usize, usize),
    /// The offset of the first string.
    pub(super) first_string: u32,
}

impl Section {
    pub(super) fn parse(data: Vec<u8>, first_id: u32, first_string: u32) -> Result<Self, &'static str> {
        let word = |offset| u32_at(&data, offset).map(to_usize).ok_or("the header is cut off");
        if data.first_chunk() != Some(&BTF_MAGIC.to_ne_bytes()) {
            return Err("it does not begin with the magic number");
        }
        if data.get(2) != Some(&BTF_VERSION) {
            return Err("its version is unknown");
        }
        let header = word(4)?;
        if header < HEADER {
            return Err("the header is too short");
        }
        // Both sections are counted from the end of the header.
        let part = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            let end = start.checked_add(length)?;
            (end <= data.len()).then_some((start, end))
        };
        let types = part(word(8)?, word(12)?).ok_or("the types are cut off")?;
        let strings = part(word(16)?, word(20)?).ok_or("the strings are cut off")?;
        u32::try_from(strings.1 - strings.0)
            .ok()
            .and_then(|length| length.checked_add(first_string))
            .ok_or("too many strings")?;
        // A type takes about thirty bytes on average.
        let mut starts = Vec::with_capacity((types.1 - types.0) / 24);
        let mut composites = Vec::new();
        let mut at = types.0;
        while at < types.1 {
            starts.push(at);
            let record = Record::parse(data.get(at..types.1).unwrap_or_default())?;
            if record.is_composite() {
                composites.push(at);
            }
            at += TYPE + record.extra.len();
        }
        u32::try_from(starts.len()).ok().and_then(|count| count.checked_add(first_id)).ok_or("too many types")?;
        Ok(Self { data, starts, composites, first_id, strings, first_string })
    }

    /// The id that follows the last type's.
    pub(super) fn end_id(&self) -> u32 {
        self.first_id + u32::try_from(self.starts.len()).unwrap_or_default()
    }

    /// The offset that follows the last string.
    pub(super) fn end_string(&self) -> u32 {
        self.first_string + u32::try_from(self.strings.1 - self.strings.0).unwrap_or_default()
    }

    fn at(&self, start: usize) -> Option<Record<'_>> {
        Record::parse(self.data.get(start..)?).ok()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.starts.iter().filter_map(|start| self.at(*start))
    }

    pub(super) fn composites(&self) -> impl Iterator<Item = Record<'_>> {
        self.composites.iter().filter_map(|start| self.at(*start))
    }

    pub(super) fn record(&self, id: u32) -> Option<Record<'_>> {
        self.at(*self.starts.get(to_usize(id.checked_sub(self.first_id)?))?)
    }

    /// The strings from an offset on.
    pub(super) fn strings(&self, offset: u32) -> Option<&[u8]> {
        let start = self.strings.0.checked_add(to_usize(offset.checked_sub(self.first_string)?))?;
        self.data.get(start..self.strings.1)
    }
}

/// Saturates where addresses have fewer than 32 bits: such an offset is beyond any data there.
fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A number in host byte order.
fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|raw| u32::from_ne_bytes(*raw))
}
