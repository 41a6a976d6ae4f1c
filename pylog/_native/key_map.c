/* The map from keys to their newest offsets: see key_map.h. */
#include "key_map.h"

/* Nine in ten homes at the most are filled, as in Kafka; a found key is then 5 slots from its home
 * on average (Knuth, volume 3, section 6.4).  The spill need not hold more than the displacement at
 * the very end, which is a few hundred slots at that load; a map that runs out of it is full. */
enum { LOAD_TENTHS = 9, SPILL_SHARE = 8, SPILL_MAX_SLOTS = 1024 };

static void clear(plog_key_slot *slots, size_t count)
{
    memset(slots, 0xff, count * sizeof *slots);
}

static void set_size(plog_key_map *map, plog_key_slot *slots, size_t slot_count)
{
    assert(slot_count >= PLOG_KEY_MAP_MIN_SLOTS);
    size_t spill = slot_count / SPILL_SHARE + 1 + PLOG_KEY_MAP_STEP;
    spill = spill < SPILL_MAX_SLOTS ? spill : SPILL_MAX_SLOTS;
    map->slots = slots;
    map->slot_count = slot_count;
    map->homes = slot_count - spill;
    map->limit = (map->homes * LOAD_TENTHS + LOAD_TENTHS) / (LOAD_TENTHS + 1);
}

void plog_key_map_begin(plog_key_map *map, const uint8_t secret[PLOG_SECRET_BYTES],
                        plog_key_slot *slots, size_t slot_count)
{
    plog_secret_load(&map->secret, secret);
    set_size(map, slots, slot_count);
    map->count = 0;
    clear(slots, slot_count);
}

void plog_key_map_grow(plog_key_map *map, plog_key_slot *slots, size_t slot_count)
{
    size_t source = slot_count, end = 0;
    for (size_t i = map->slot_count; i-- > 0;) {
        if (slots[i].offset >= 0) {
            slots[--source] = slots[i];
        }
    }
    set_size(map, slots, slot_count);
    /* With more homes an entry is no farther behind the last home than before, so the rest always
     * fits behind it, and nothing is written where an entry waits. */
    for (; source < slot_count; source++) {
        const plog_key_slot moved = slots[source];
        const size_t home = (size_t)(plog_key_map_home(map, &moved.hash) - slots);
        const size_t target = home > end ? home : end;
        assert(target <= source && target < slot_count - PLOG_KEY_MAP_STEP);
        clear(slots + end, target - end);
        slots[target] = moved;
        end = target + 1;
    }
    clear(slots + end, slot_count - end);
}

plog_status plog_key_map_put(plog_key_map *map, const plog_key_hash *hash, int64_t offset)
{
    assert(offset >= 0);
    plog_key_slot *slot = map->slots + (plog_key_map_seek(map, hash) - map->slots);
    if (slot->offset >= 0 && plog_key_slot_has(slot, hash)) {
        slot->offset = slot->offset > offset ? slot->offset : offset;
        return PLOG_OK;
    }
    const plog_key_slot *end = map->slots + map->slot_count - PLOG_KEY_MAP_STEP;
    plog_key_slot *empty = slot;
    while (empty->offset >= 0) {
        empty++;
    }
    if (empty == end || map->count >= map->limit) {
        return PLOG_NO_ROOM;
    }
    memmove(slot + 1, slot, (size_t)(empty - slot) * sizeof *slot);
    *slot = (plog_key_slot){*hash, offset};
    map->count++;
    return PLOG_OK;
}

void plog_key_map_mark(const plog_key_map *map, int64_t start, int64_t end, uint8_t *marks)
{
    for (size_t i = 0; i < map->slot_count; i++) {
        const int64_t offset = map->slots[i].offset;
        if (offset >= start && offset < end) {
            const uint64_t place = (uint64_t)(offset - start);
            marks[place / 8] |= (uint8_t)(1 << place % 8);
        }
    }
}
