/* The newest offset of each key, in memory of a fixed size.
 *
 * A key is its 128-bit hash.  Slots are probed one after another, and stand in the order of their
 * hashes; an empty one has the greatest hash there is:
 *
 *     home(h) = h.high * homes / 2**64        position >= home, and ascending with h
 *
 *     | homes ................................... | spill ... | four empty ones |
 *
 * so a search ends at the first hash that is not less whether the key is there or not, and the map
 * grows in place: all entries are pushed to the end and dealt out again from the front.  What is
 * displaced at the end stands in the spill.
 *
 * Knows: hashes and offsets.  Must not know: batches.  Allocates nothing, takes no lock.
 * Source: ordered linear probing, Amble and Knuth, "Ordered hash tables" (1974).
 */
#ifndef PLOG_KEY_MAP_H
#define PLOG_KEY_MAP_H

#include "siphash.h"

typedef struct {
    plog_key_hash hash;
    int64_t offset; /* of the newest record of the key; -1: the slot is empty, all bits are set */
} plog_key_slot;
static_assert(sizeof(plog_key_slot) == 24, "as many entries fit as in Kafka's map");

/* Slots that are compared at a time; so many stay empty at the end. */
enum { PLOG_KEY_MAP_STEP = 4 };

/* One home, one slot of spill and the empty ones. */
enum { PLOG_KEY_MAP_MIN_SLOTS = 2 + PLOG_KEY_MAP_STEP };

typedef struct {
    plog_secret secret;
    plog_key_slot *slots; /* the caller's */
    size_t slot_count, homes, limit, count;
} plog_key_map;

/* An empty map over `slot_count` (>= PLOG_KEY_MAP_MIN_SLOTS) slots, whatever is in them. */
void plog_key_map_begin(plog_key_map *map, const uint8_t secret[PLOG_SECRET_BYTES],
                        plog_key_slot *slots, size_t slot_count);

/* Go on in `slots`, which begin with the slots there were and are more. */
void plog_key_map_grow(plog_key_map *map, plog_key_slot *slots, size_t slot_count);

/* Note that a record of the key stands at `offset`.  OK, or NO_ROOM: it is a new key too many. */
plog_status plog_key_map_put(plog_key_map *map, const plog_key_hash *hash, int64_t offset);

/* Set a bit for each newest offset in [start, end); the bits of `marks` are zero, the first is that
 * of `start`. */
void plog_key_map_mark(const plog_key_map *map, int64_t start, int64_t end, uint8_t *marks);

static inline plog_key_hash plog_key_map_hash(const plog_key_map *map, const plog_bytes *key)
{
    return plog_siphash(&map->secret, key->data, (size_t)key->len);
}

static inline const plog_key_slot *plog_key_map_home(const plog_key_map *map,
                                                     const plog_key_hash *hash)
{
    return map->slots + (size_t)((unsigned __int128)hash->high * map->homes >> 64);
}

/* Say that the hash will be looked up soon. */
static inline void plog_key_map_prefetch(const plog_key_map *map, const plog_key_hash *hash)
{
    __builtin_prefetch(plog_key_map_home(map, hash));
}

/* The first slot whose hash is not less; an empty one has the greatest.  Four slots are compared
 * at a time and without a branch, because none could be foreseen.  No search leaves the slots: the
 * last ones are empty. */
static inline const plog_key_slot *plog_key_map_seek(const plog_key_map *map,
                                                     const plog_key_hash *hash)
{
    const plog_key_slot *slot = plog_key_map_home(map, hash);
    unsigned less;
    do {
        less = (unsigned)(slot[0].hash.high < hash->high) + (slot[1].hash.high < hash->high) +
               (slot[2].hash.high < hash->high) + (slot[3].hash.high < hash->high);
        slot += less;
    } while (less == PLOG_KEY_MAP_STEP);
    while (slot->hash.high == hash->high && slot->hash.low < hash->low) {
        slot++;
    }
    return slot;
}

/* An empty slot may hold the greatest hash, and is told by its offset. */
static inline bool plog_key_slot_has(const plog_key_slot *slot, const plog_key_hash *hash)
{
    return slot->hash.high == hash->high && slot->hash.low == hash->low;
}

/* The newest offset that was noted for the key; -1: none was. */
static inline int64_t plog_key_map_find(const plog_key_map *map, const plog_key_hash *hash)
{
    const plog_key_slot *slot = plog_key_map_seek(map, hash);
    return plog_key_slot_has(slot, hash) ? slot->offset : -1;
}

#endif
