/* The shared page.  See the header for what it is; here are the layout and the proofs.
 *
 * Two builds.  Linux: a robust process-shared mutex in the page and a futex on the event word.
 * PLOG_PORTABLE (elsewhere, or when asked for): flock on a descriptor that each attachment opened
 * for itself, a mutex for the threads that share the attachment, and polling.
 */
#include "shared_page.h"

#include <errno.h>
#include <stdalign.h>
#include <time.h>
#include <unistd.h>
#ifdef PLOG_PORTABLE
#include <sys/file.h>
#else
#include <sys/syscall.h>
#endif

/* "PLG1" when the page is whole; any other value: not initialized. */
#define PAGE_VALID UINT32_C(0x31474c50)

enum { CACHE_LINE_BYTES = 64, LOCK_BYTES = 128 };

/* Alignment that every allocator gives.  Cache lines may be split then, which costs time only. */
enum { MEMORY_ALIGNMENT_BYTES = 16 };

/*  position  bytes
 *         0      4  valid: written last by initialize
 *         4      4  length of the identity
 *         8    256  identity: what the page belongs to, as its user says; not looked at here
 *       320    128  lock
 *       448      4  events
 *       512      8  selector: marks[selector & 1] are the published ones
 *       520     16  intent: start, end
 *       576    192  marks[0]
 *       768    192  marks[1]
 * What different processors write at different times stands on different cache lines. */
struct plog_page_memory {
    _Atomic uint32_t valid;
    uint32_t identity_len;
    uint8_t identity[PLOG_IDENTITY_BYTES];
    uint8_t pad_lock[56];
    union {
        pthread_mutex_t mutex;
        uint8_t reserved[LOCK_BYTES];
    } lock;
    plog_events events;
    uint8_t pad_selector[60];
    _Atomic uint64_t selector;
    _Atomic int64_t intent_start;
    _Atomic int64_t intent_end;
    uint8_t pad_marks[40];
    struct {
        _Atomic int64_t fields[PLOG_MARK_COUNT];
    } marks[2];
};

static_assert(sizeof(pthread_mutex_t) <= LOCK_BYTES, "the lock fits");
static_assert(offsetof(plog_page_memory, lock) == 320, "the layout is the diagram");
static_assert(offsetof(plog_page_memory, events) == 448, "the layout is the diagram");
static_assert(offsetof(plog_page_memory, selector) == 512, "the layout is the diagram");
static_assert(offsetof(plog_page_memory, intent_start) == 520, "the layout is the diagram");
static_assert(offsetof(plog_page_memory, marks[0]) == 576, "the layout is the diagram");
static_assert(offsetof(plog_page_memory, marks[1]) == 768, "the layout is the diagram");
static_assert(offsetof(plog_page_memory, marks[1]) % CACHE_LINE_BYTES == 0, "copies stand apart");
static_assert(sizeof(plog_page_memory) <= PLOG_PAGE_BYTES, "the page holds it all");
static_assert(alignof(plog_page_memory) <= MEMORY_ALIGNMENT_BYTES, "the alignment asked suffices");
static_assert(sizeof(_Atomic int64_t) == sizeof(int64_t), "an atomic mark is its eight bytes");
/* An atomic made of a hidden lock would protect nothing in another process. */
static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics need no lock");

#ifdef PLOG_PORTABLE

/* ---- the lock: flock between attachments, a mutex between the threads that share one
 *
 * The kernel drops a flock with the last descriptor of its holder and tells nobody, so a dead
 * holder is known by the intent alone; that is all that its successor has to repair. */

size_t plog_page_lock_bytes(void)
{
    return 0;
}

uint64_t plog_thread_id(void)
{
    /* With the process, since pthread_self is the same in a forked child. */
    return ((uint64_t)getpid() << 48) ^ (uint64_t)(uintptr_t)pthread_self();
}

static int open_lock(plog_page *page, int lock_fd)
{
    page->lock_fd = lock_fd;
    atomic_init(&page->holder, 0);
    return pthread_mutex_init(&page->threads, NULL);
}

static void close_lock(plog_page *page)
{
    pthread_mutex_destroy(&page->threads);
}

static int initialize_lock(plog_page *page)
{
    (void)page;
    return 0;
}

static int try_flock(int fd)
{
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EINTR) {
            return errno == EWOULDBLOCK ? EBUSY : errno;
        }
    }
    return 0;
}

static int try_lock(plog_page *page, uint64_t thread)
{
    if (atomic_load_explicit(&page->holder, memory_order_relaxed) == thread) {
        return EDEADLK;
    }
    int error = pthread_mutex_trylock(&page->threads);
    if (error == 0 && page->lock_fd >= 0) {
        error = try_flock(page->lock_fd);
        if (error != 0) {
            pthread_mutex_unlock(&page->threads);
        }
    }
    if (error == 0) {
        atomic_store_explicit(&page->holder, thread, memory_order_relaxed);
    }
    return error;
}

plog_status plog_page_lock(plog_page *page, int64_t deadline_ns)
{
    const uint64_t thread = plog_thread_id();
    int64_t pause_ns = PLOG_POLL_FIRST_NS;
    int error = try_lock(page, thread);
    while (error == EBUSY && deadline_ns != 0) {
        plog_status status = plog_poll_pause(&pause_ns, deadline_ns);
        if (status == PLOG_TIMED_OUT) {
            return status;
        }
        error = try_lock(page, thread);
    }
    errno = error;
    return error == 0 ? PLOG_OK : error == EBUSY ? PLOG_TIMED_OUT : PLOG_SYSTEM;
}

plog_status plog_page_unlock(plog_page *page)
{
    if (atomic_load_explicit(&page->holder, memory_order_relaxed) != plog_thread_id()) {
        errno = EPERM;
        return PLOG_SYSTEM;
    }
    atomic_store_explicit(&page->holder, 0, memory_order_relaxed);
    if (page->lock_fd >= 0) {
        flock(page->lock_fd, LOCK_UN);
    }
    pthread_mutex_unlock(&page->threads);
    return PLOG_OK;
}

#else

/* ---- the lock: a mutex in the page.  The kernel hands a dead holder's lock to the next one */

size_t plog_page_lock_bytes(void)
{
    return sizeof(pthread_mutex_t);
}

uint64_t plog_thread_id(void)
{
    return (uint64_t)syscall(SYS_gettid);
}

static int open_lock(plog_page *page, int lock_fd)
{
    (void)page;
    (void)lock_fd;
    return 0;
}

static void close_lock(plog_page *page)
{
    (void)page;
}

static int initialize_lock(plog_page *page)
{
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);
    if (error != 0) {
        return error;
    }
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    /* A thread that already holds the lock gets an error instead of waiting for itself. */
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    error = pthread_mutex_init(&page->memory->lock.mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return error;
}

static int wait_for_lock(pthread_mutex_t *mutex, int64_t deadline_ns)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30)
    struct timespec deadline = plog_timespec_from_ns(deadline_ns);
    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &deadline);
#else
    /* Without clocklock a jump of the wall clock moves the end of this wait; callers wait in
     * slices, and an unlock ends it anyway. */
    int64_t left = deadline_ns - plog_monotonic_ns();
    struct timespec deadline = plog_timespec_from_ns(plog_wall_clock_ns() + (left > 0 ? left : 0));
    return pthread_mutex_timedlock(mutex, &deadline);
#endif
}

plog_status plog_page_lock(plog_page *page, int64_t deadline_ns)
{
    pthread_mutex_t *mutex = &page->memory->lock.mutex;
    int error = pthread_mutex_trylock(mutex);
    if (error == EBUSY && deadline_ns != 0) {
        error = wait_for_lock(mutex, deadline_ns);
    }
    if (error == 0) {
        return PLOG_OK;
    }
    if (error == EOWNERDEAD) {
        /* The marks are whole whatever the holder was doing, and the intent says which bytes are
         * not; so the lock is good at once.  The holder may have published and told nobody. */
        pthread_mutex_consistent(mutex);
        plog_events_notify(&page->memory->events);
        return PLOG_OWNER_DIED;
    }
    errno = error;
    return error == EBUSY || error == ETIMEDOUT ? PLOG_TIMED_OUT : PLOG_SYSTEM;
}

plog_status plog_page_unlock(plog_page *page)
{
    errno = pthread_mutex_unlock(&page->memory->lock.mutex);
    return errno == 0 ? PLOG_OK : PLOG_SYSTEM;
}

#endif

/* ---- the page */

plog_status plog_page_open(plog_page *page, void *memory, size_t len, int lock_fd)
{
    if (len < PLOG_PAGE_BYTES || (uintptr_t)memory % MEMORY_ALIGNMENT_BYTES != 0) {
        return PLOG_BAD_LENGTH;
    }
    page->memory = memory;
    errno = open_lock(page, lock_fd);
    return errno == 0 ? PLOG_OK : PLOG_SYSTEM;
}

void plog_page_close(plog_page *page)
{
    close_lock(page);
    page->memory = NULL;
}

plog_status plog_page_initialize(plog_page *page, const uint8_t *identity, size_t len,
                                 const plog_marks *marks)
{
    plog_page_memory *memory = page->memory;
    if (len > PLOG_IDENTITY_BYTES) {
        return PLOG_BAD_LENGTH;
    }
    atomic_store(&memory->valid, 0);
    memset((uint8_t *)memory + sizeof memory->valid, 0, PLOG_PAGE_BYTES - sizeof memory->valid);
    errno = initialize_lock(page);
    if (errno != 0) {
        return PLOG_SYSTEM;
    }
    memcpy(memory->identity, identity, len);
    memory->identity_len = (uint32_t)len;
    plog_page_publish_locked(page, marks);
    atomic_store(&memory->valid, PAGE_VALID);
    return PLOG_OK;
}

bool plog_page_is_valid(const plog_page *page)
{
    return atomic_load(&page->memory->valid) == PAGE_VALID;
}

const uint8_t *plog_page_identity(const plog_page *page, size_t *len)
{
    const size_t stored = page->memory->identity_len;
    *len = stored < PLOG_IDENTITY_BYTES ? stored : PLOG_IDENTITY_BYTES;
    return page->memory->identity;
}

void plog_page_prefetch(const plog_page *page)
{
    enum { LINE_BYTES = 64 };
    const char *line = (const char *)&page->memory->lock;
    const char *end = (const char *)(page->memory + 1);
    for (; line < end; line += LINE_BYTES) {
        __builtin_prefetch(line, 1);
    }
}

/* Why a reader never sees a mix.  The writer of selector s + 1 fills the copy that s did not
 * select, and stores the selector last, with release: whoever loads s + 1 sees that copy
 * whole.  That copy is written again only for s + 2, after the store of s + 1 and behind a release
 * fence.  So a reader that met a byte of that writing in copy s & 1 sees the selector moved when it
 * looks again (its acquire fence pairs with the release fence) and starts over.  A writer killed
 * anywhere leaves the selector, and so the marks, old or new. */
void plog_page_marks(const plog_page *page, plog_marks *out)
{
    const plog_page_memory *memory = page->memory;
    uint64_t before = 0;
    uint64_t after = atomic_load_explicit(&memory->selector, memory_order_acquire);
    do {
        before = after;
        const _Atomic int64_t *fields = memory->marks[before & 1].fields;
        for (size_t i = 0; i < PLOG_MARK_COUNT; i++) {
            out->fields[i] = atomic_load_explicit(&fields[i], memory_order_relaxed);
        }
        atomic_thread_fence(memory_order_acquire);
        after = atomic_load_explicit(&memory->selector, memory_order_acquire);
    } while (after != before);
}

void plog_page_marks_locked(const plog_page *page, plog_marks *out)
{
    const plog_page_memory *memory = page->memory;
    const uint64_t selector = atomic_load_explicit(&memory->selector, memory_order_relaxed);
    memcpy(out, (const void *)memory->marks[selector & 1].fields, sizeof *out);
}

void plog_page_publish_locked(plog_page *page, const plog_marks *marks)
{
    plog_page_memory *memory = page->memory;
    const uint64_t next = atomic_load_explicit(&memory->selector, memory_order_relaxed) + 1;
    _Atomic int64_t *field = memory->marks[next & 1].fields;
    atomic_thread_fence(memory_order_release);
/* No loop: compilers unroll none of atomics, and this is the hottest part of an append. */
#define STORE_MARK(name) atomic_store_explicit(field++, marks->name, memory_order_relaxed);
    PLOG_EACH_MARK(STORE_MARK)
#undef STORE_MARK
    atomic_store_explicit(&memory->selector, next, memory_order_release);
}

void plog_page_intent(const plog_page *page, int64_t *start, int64_t *end)
{
    *end = atomic_load_explicit(&page->memory->intent_end, memory_order_acquire);
    *start = atomic_load_explicit(&page->memory->intent_start, memory_order_relaxed);
}

/* The end makes the intent count, so it is written last here and taken back first by clear: a
 * process killed in between leaves no intent, and has not touched, or has already published, the
 * bytes. Nobody else looks before the kernel has stopped the holder, so the order of instructions
 * is enough between the intent and the bytes: no fence of the processor is needed. */
void plog_page_set_intent_locked(plog_page *page, int64_t start, int64_t end)
{
    plog_page_clear_intent_locked(page);
    atomic_store_explicit(&page->memory->intent_start, start, memory_order_release);
    atomic_store_explicit(&page->memory->intent_end, end, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
}

void plog_page_clear_intent_locked(plog_page *page)
{
    atomic_store_explicit(&page->memory->intent_end, 0, memory_order_release);
}

plog_events *plog_page_events(const plog_page *page)
{
    return &page->memory->events;
}
