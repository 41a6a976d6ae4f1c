/* CommitQueue: threads of one process, one of which makes the records of all durable.
 *
 * Knows: who leads, and up to which offset the waiters are served.  Must not know pages or files.
 * GIL: all state is read and changed with it; it is released only while a thread sleeps, on a word
 * of its own.  A place in the queue is on the stack of the thread that sleeps there; it leaves wait
 * with the GIL only, so whoever has the GIL finds all places alive.
 *
 * Why each waiter has its own word.  Woken all at once they would queue for the GIL, and each would
 * fall asleep and be woken there a second time.  So a leader wakes one of those it has served, and
 * each of them, when it has the GIL, the next.  While they append, the next leader syncs.
 *
 * Why no wake-up is lost.  Two things can be due.  Somebody is in `served`: whoever puts waiters
 * there wakes the first, and whoever leaves the queue the next, so there is always one on its way
 * who will.  The lead is free and somebody is in `waiting`: whoever gives the lead up wakes one of
 * them, and if that one leaves without the lead and unserved, another.  It may find the lead taken
 * again by a thread that just came; that one will give it up, too. */

#include "py_page.h"

typedef enum { COVERED, LEADS, ENDED } answer;

typedef struct place {
    struct place *next;  /* borrowed, as all places */
    struct place **list; /* the list that it is in, NULL for none */
    int64_t end_offset;  /* what is waited for; NO_OFFSET: only the lead */
    plog_events word;
} place;

/* No record has it, so that nobody can serve who waits for it. */
static const int64_t NO_OFFSET = INT64_MAX;

typedef struct {
    PyObject_HEAD place *waiting; /* in order of arrival */
    place *served;                /* durable, and asleep until the one before them is awake */
    int64_t durable_offset;
    uint64_t leader; /* a plog_thread_id, or 0 */
    int64_t depth;   /* how often the leader has the lead: a signal handler may append, too */
    bool is_ended;
} queue_object;

/* ---- lists */

static void put_last(place **list, place *last)
{
    place **end = list;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    last->next = NULL;
    last->list = list;
    *end = last;
}

static void take_out(place *gone)
{
    place **link = gone->list;
    if (link == NULL) {
        return;
    }
    while (*link != gone) {
        link = &(*link)->next;
    }
    *link = gone->next;
    gone->list = NULL;
}

static void forget_all(place **list)
{
    for (place *one = *list; one != NULL; one = one->next) {
        one->list = NULL;
    }
    *list = NULL;
}

/* The first who waits for nothing but the lead, NULL for none. */
static place *first_taker(const queue_object *self)
{
    place *one = self->waiting;
    while (one != NULL && one->end_offset != NO_OFFSET) {
        one = one->next;
    }
    return one;
}

/* ---- duties */

/* Waiters of the portable build poll: one after the other they would add up their pauses. */
#ifdef PLOG_PORTABLE
static const bool WAKES_ALL_AT_ONCE = true;
#else
static const bool WAKES_ALL_AT_ONCE = false;
#endif

static void wake_served(queue_object *self)
{
    place *first = self->served;
    while (first != NULL) {
        take_out(first);
        plog_events_notify(&first->word);
        first = WAKES_ALL_AT_ONCE ? self->served : NULL;
    }
}

static void wake_candidate(queue_object *self)
{
    place *taker = first_taker(self);
    place *one = taker == NULL ? self->waiting : taker;
    if (one != NULL) {
        plog_events_notify(&one->word);
    }
}

static void serve(queue_object *self, int64_t durable_offset)
{
    if (durable_offset <= self->durable_offset) {
        return;
    }
    self->durable_offset = durable_offset;
    for (place *one = self->waiting, *next; one != NULL; one = next) {
        next = one->next;
        if (one->end_offset <= durable_offset) {
            take_out(one);
            put_last(&self->served, one);
        }
    }
}

static bool is_leader(const queue_object *self)
{
    return self->leader != 0 && self->leader == plog_thread_id();
}

static void give_up(queue_object *self)
{
    if (is_leader(self) && --self->depth == 0) {
        self->leader = 0;
        wake_candidate(self);
    }
}

/* Whoever comes when the lead is free takes it, but not from who waits for nothing else: a stream
 * of appends would keep it waiting. */
static bool take_lead(queue_object *self, bool is_taker)
{
    if (self->leader == 0 && (is_taker || first_taker(self) == NULL)) {
        self->leader = plog_thread_id();
    }
    const bool has_lead = is_leader(self);
    self->depth += has_lead;
    return has_lead;
}

/* ---- waiting */

/* Whether the wait is over, and how. */
static bool has_answer(queue_object *self, int64_t end_offset, answer *out)
{
    if (end_offset <= self->durable_offset) {
        *out = COVERED;
    } else if (self->is_ended) {
        *out = ENDED;
    } else if (take_lead(self, end_offset == NO_OFFSET)) {
        *out = LEADS;
    } else {
        return false;
    }
    return true;
}

/* Sleep until somebody wakes this thread, at most for a slice; -1 with an error. */
static int sleep_at(place *own, int64_t slice_ms)
{
    const uint32_t seen = plog_events_value(&own->word);
    plog_status status;
    Py_BEGIN_ALLOW_THREADS status =
        plog_events_wait(&own->word, seen, plog_slice_end(INT64_MAX, slice_ms));
    Py_END_ALLOW_THREADS if (status == PLOG_SYSTEM)
    {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return status == PLOG_OK ? 0 : PyErr_CheckSignals();
}

/* 0 with an answer, or -1 with the error of a signal handler. */
static int wait_for_answer(queue_object *self, int64_t end_offset, answer *out)
{
    const int64_t slice_ms = plog_state_of((PyObject *)self)->events_slice_ms;
    place own = {.end_offset = end_offset};
    int result = 0;
    if (has_answer(self, end_offset, out)) {
        return 0;
    }
    put_last(&self->waiting, &own);
    do {
        result = sleep_at(&own, slice_ms);
    } while (result == 0 && !has_answer(self, end_offset, out));
    const bool is_unserved = own.list == &self->waiting;
    take_out(&own);
    wake_served(self);
    if (is_unserved && self->leader == 0) {
        wake_candidate(self);
    }
    return result;
}

static PyObject *queue_wait(PyObject *object, PyObject *offset)
{
    int64_t end_offset;
    answer out = ENDED;
    if (plog_int64_from_object(offset, "end_offset", &end_offset) < 0 ||
        wait_for_answer((queue_object *)object, end_offset, &out) < 0) {
        return NULL;
    }
    return PyLong_FromLong(out);
}

static PyObject *queue_take(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"blocking", NULL};
    queue_object *self = (queue_object *)object;
    int is_blocking = 0;
    answer out = ENDED;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$p", names, &is_blocking)) {
        return NULL;
    }
    if (!is_blocking) {
        return PyBool_FromLong(!self->is_ended && take_lead(self, true));
    }
    if (wait_for_answer(self, NO_OFFSET, &out) < 0) {
        return NULL;
    }
    return PyBool_FromLong(out == LEADS);
}

static PyObject *queue_give_up(PyObject *object, PyObject *Py_UNUSED(unused))
{
    give_up((queue_object *)object);
    Py_RETURN_NONE;
}

static PyObject *queue_finish(PyObject *object, PyObject *offset)
{
    queue_object *self = (queue_object *)object;
    int64_t durable_offset;
    if (plog_int64_from_object(offset, "durable_offset", &durable_offset) < 0) {
        return NULL;
    }
    serve(self, durable_offset);
    give_up(self); /* which wakes the next leader first: a sync takes longer than an append */
    wake_served(self);
    Py_RETURN_NONE;
}

static PyObject *queue_restart(PyObject *object, PyObject *offset)
{
    queue_object *self = (queue_object *)object;
    int64_t durable_offset;
    if (plog_int64_from_object(offset, "durable_offset", &durable_offset) < 0) {
        return NULL;
    }
    self->durable_offset = durable_offset;
    Py_RETURN_NONE;
}

static PyObject *queue_end(PyObject *object, PyObject *Py_UNUSED(unused))
{
    queue_object *self = (queue_object *)object;
    self->is_ended = true;
    for (place *one = self->waiting; one != NULL; one = one->next) {
        plog_events_notify(&one->word);
    }
    Py_RETURN_NONE;
}

static PyObject *queue_abandon(PyObject *object, PyObject *Py_UNUSED(unused))
{
    queue_object *self = (queue_object *)object;
    self->is_ended = true;
    self->leader = 0;
    self->depth = 0;
    forget_all(&self->waiting);
    forget_all(&self->served);
    Py_RETURN_NONE;
}

static PyObject *queue_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, ":CommitQueue", names)) {
        return NULL;
    }
    return PyType_GenericAlloc(type, 0);
}

/* ---- the type */

static int add_answers(PyObject *module)
{
    if (PyModule_AddIntConstant(module, "COVERED", COVERED) < 0 ||
        PyModule_AddIntConstant(module, "LEADS", LEADS) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "ENDED", ENDED);
}

int plog_add_commit_queue_type(PyObject *module)
{
    static PyMethodDef methods[] = {
        {"wait", queue_wait, METH_O,
         "Wait until all below `end_offset` is durable: COVERED.  Or LEADS: this thread has to "
         "see\n"
         "to it, and to call finish or give_up.  Or ENDED.  Sleeps without the GIL; ends when a\n"
         "signal handler raises."},
        {"take", PLOG_METHOD(queue_take), METH_VARARGS | METH_KEYWORDS,
         "Take the lead for something else; return whether this thread has it, never after end.\n\n"
         "blocking: wait for it, before all others.  Who leads already leads once more."},
        {"finish", queue_finish, METH_O,
         "Say that all below `durable_offset` is durable, and give up the lead."},
        {"restart", queue_restart, METH_O,
         "Believe only what is below `durable_offset` to be durable: others have the offsets "
         "above."},
        {"give_up", queue_give_up, METH_NOARGS,
         "Let another lead; nothing when this one does not."},
        {"end", queue_end, METH_NOARGS, "Send away who waits, and who comes from now on."},
        {"abandon", queue_abandon, METH_NOARGS,
         "In a forked child: forget the parent's threads, and end."},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Where threads of a process wait for a sync that one of them makes for all."},
        {Py_tp_new, (void *)queue_new},
        {Py_tp_dealloc, (void *)plog_free_object},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.CommitQueue",
        .basicsize = sizeof(queue_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return add_answers(module) < 0 ? -1
                                   : plog_add_type(module, &spec, PLOG_COMMIT_QUEUE_TYPE, true);
}
