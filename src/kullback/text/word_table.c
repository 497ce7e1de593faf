/* A table of the ids of words, which threads share: many find words in it, one at a time adds some.

   word_table.py compiles and calls these functions.  Text is UTF-8.  A part of a text ends before
   plain whitespace (space, tab, newline, carriage return) that follows a character which is not
   whitespace, or where the text ends: the same places as in piece_encoders.py.

   A record is the length of a part in bytes, the number of its ids, the part, and the ids.  A slot
   has the place of a record in its 40 low bits and the part's hash in the others; 0 is empty.  A
   record is written before its slot is, and neither changes after, so that finding needs no lock. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a part that is kept; slots that are looked at, so that no text makes finding slow. */
enum { LONGEST = 64, PROBES = 64, HEADER = 2, PLACE_BITS = 40 };
/* FNV-1a (Fowler, Noll and Vo; RFC 9923). */
static const uint64_t BASIS = 0xcbf29ce484222325u, PRIME = 0x100000001b3u;

typedef struct {
  uint64_t *slots, mask;
  uint8_t *records;
  int64_t capacity, used, entries;
  int64_t id_bytes;
} Table;

void kullback_words_free(Table *table) {
  if (!table) return;
  free(table->slots);
  free(table->records);
  free(table);
}

/* A table with 2^bits slots and a number of bytes of records; NULL where memory is short. */
Table *kullback_words_new(int64_t bits, int64_t capacity, int64_t id_bytes) {
  Table *table = calloc(1, sizeof *table);
  if (!table) return NULL;
  table->slots = calloc((size_t)1 << bits, sizeof *table->slots);
  table->records = calloc((size_t)capacity, 1);
  table->mask = ((uint64_t)1 << bits) - 1;
  table->capacity = capacity;
  table->used = 1; /* a slot with place 0 is empty */
  table->id_bytes = id_bytes;
  if (table->slots && table->records) return table;
  kullback_words_free(table);
  return NULL;
}

static int is_plain(uint8_t c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* Whether the character that ends before `end` is whitespace, as Python's \s has it. */
static int is_space_before(const uint8_t *begin, const uint8_t *end) {
  uint8_t c = end[-1];
  if (c < 0x80) return c <= ' '; /* other control characters count as whitespace, too */
  int64_t size = end - begin;
  if (size >= 2 && end[-2] == 0xc2) return c == 0x85 || c == 0xa0;
  if (size < 3) return 0;
  uint8_t a = end[-3], b = end[-2];
  if (a == 0xe2 && b == 0x80) return c <= 0x8a || c == 0xa8 || c == 0xa9 || c == 0xaf;
  return (a == 0xe2 && b == 0x81 && c == 0x9f) || (a == 0xe1 && b == 0x9a && c == 0x80) ||
         (a == 0xe3 && b == 0x80 && c == 0x80);
}

static uint64_t hash_of(uint64_t hash) { return hash ^ hash >> 29; }

/* The record of a part, or NULL; then *slot is where it could go, NULL for nowhere. */
static const uint8_t *look_up(const Table *table, const uint8_t *part, int64_t size, uint64_t hash,
                              uint64_t **slot) {
  *slot = NULL;
  for (uint64_t i = 0; i < PROBES; i++) {
    uint64_t *place = &table->slots[(hash + i) & table->mask];
    uint64_t content = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    if (!content) {
      *slot = place;
      return NULL;
    }
    if (content >> PLACE_BITS != hash >> PLACE_BITS) continue;
    const uint8_t *record = table->records + (content & (((uint64_t)1 << PLACE_BITS) - 1));
    if (record[0] == size && !memcmp(record + HEADER, part, (size_t)size)) return record;
  }
  return NULL;
}

/* Write the ids of all parts of some texts, of which text k ends at byte ends[k], to `ids`, and
   how many of each text to `counts`.  Parts that are not in the table have none: the first byte of
   each, the one after its last, the ids before it and its text are written to `missing`.  Returns
   the number of these. */
int64_t kullback_words_find(const Table *table, const uint8_t *content, const int64_t *ends,
                            int64_t texts, uint8_t *ids, int64_t *counts, int64_t *missing) {
  int64_t written = 0, absent = 0, next = 0;
  for (int64_t k = 0; k < texts; k++) {
    int64_t before = written;
    while (next < ends[k]) {
      int64_t begin = next;
      uint64_t hash = BASIS, *slot;
      do {
        hash = (hash ^ content[next++]) * PRIME;
      } while (next < ends[k] && !(is_plain(content[next]) &&
                                   !is_space_before(content + begin, content + next)));
      int64_t size = next - begin;
      const uint8_t *record =
          size > LONGEST ? NULL : look_up(table, content + begin, size, hash_of(hash), &slot);
      if (!record) {
        int64_t *entry = missing + 4 * absent++;
        entry[0] = begin, entry[1] = next, entry[2] = written, entry[3] = k;
        continue;
      }
      size_t bytes = (size_t)(record[1] * table->id_bytes);
      memcpy(ids + written * table->id_bytes, record + HEADER + size, bytes);
      written += record[1];
    }
    counts[k] = written - before;
  }
  return absent;
}

/* Add parts, of which each ends at byte ends[k] of `content` and has counts[k] of `ids`; those that
   are too long are left out.  Returns 0 where the table is full.  One thread at a time. */
int kullback_words_add(Table *table, const uint8_t *content, const int64_t *ends, int64_t parts,
                       const uint8_t *ids, const int64_t *counts) {
  int64_t begin = 0;
  for (int64_t k = 0; k < parts; begin = ends[k++]) {
    int64_t size = ends[k] - begin;
    size_t bytes = (size_t)(counts[k] * table->id_bytes);
    const uint8_t *part = content + begin, *of_part = ids;
    ids += bytes;
    if (size > LONGEST || counts[k] > 255) continue;
    int64_t needed = HEADER + size + (int64_t)bytes;
    if (table->used + needed > table->capacity || 2 * table->entries > (int64_t)table->mask)
      return 0;
    uint64_t hash = BASIS, *slot;
    for (int64_t i = 0; i < size; i++) hash = (hash ^ part[i]) * PRIME;
    hash = hash_of(hash);
    if (look_up(table, part, size, hash, &slot) || !slot) continue;
    uint8_t *record = table->records + table->used;
    record[0] = (uint8_t)size, record[1] = (uint8_t)counts[k];
    memcpy(record + HEADER, part, (size_t)size);
    memcpy(record + HEADER + size, of_part, bytes);
    uint64_t tag = hash >> PLACE_BITS << PLACE_BITS;
    __atomic_store_n(slot, tag | (uint64_t)table->used, __ATOMIC_RELEASE);
    table->used += needed, table->entries++;
  }
  return 1;
}
