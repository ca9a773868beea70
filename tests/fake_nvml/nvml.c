// SPDX-License-Identifier: Apache-2.0
// A stand-in for the NVIDIA driver's libnvidia-ml.so.1, with the real binary interface.
//
// Everything it answers stands in one struct of fixed layout, mapped from the file that FAKE_NVML_STATE
// names (private memory, and so no device, where it is unset): a test changes the node while the library
// is in use, in its own process or in another. __init__.py mirrors the layout; keep the two in step.
//
// -DWITHOUT_INIT, -DWITHOUT_MEMORY_V2, -DWITHOUT_TEMPERATURE_V, -DWITHOUT_MIG, -DWITHOUT_GPM and
// -DWITHOUT_FIELDS leave symbols out, as older drivers do.

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CARDS = 16, SLICES = 8, FLAP_CODES = 8, GPM_METRICS = 8, FIELDS = 10, LINKS = 18, PROCESSES = 8, THREADS = 32 };

// Every call with its own error, delay and counter; the order is that of CALLS in __init__.py.
enum call {
    INIT, SHUTDOWN, DRIVER_VERSION, COUNT, HANDLE, UUID, NAME, INDEX, PCI, UTILISATION, MEMORY, MEMORY_V2,
    TEMPERATURE, TEMPERATURE_V, POWER, MIG_MODE, MIG_SLOTS, MIG_HANDLE,
    MINOR, GPU_INSTANCE, COMPUTE_INSTANCE,
    GPM_SUPPORT, GPM_ALLOC, GPM_FREE, GPM_SAMPLE, GPM_MIG_SAMPLE, GPM_METRICS_GET, FIELD_VALUES, PCIE_THROUGHPUT,
    COMPUTE_PROCESSES, GRAPHICS_PROCESSES, PROCESS_UTILISATION, CALLS
};

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, ARGUMENT_VERSION_MISMATCH = 25 };

enum { MIG_UNSUPPORTED = 0, MIG_DISABLED = 1, MIG_ENABLED = 2 };

// What GPM has counted: the time, and for each metric of GPM_IDS its value times the time. A sample is a copy.
struct gpm {
    uint32_t supported;
    uint32_t incarnation;  // another one for each GPU instance that ever was
    int32_t errors[GPM_METRICS];
    double seconds;
    double totals[GPM_METRICS];
};

// A field value of a card. Those of single links have one value a link; the others have theirs in [0].
struct field {
    int32_t error;
    uint32_t value_type;
    uint64_t values[LINKS];
};

struct slice {
    uint32_t present;
    int32_t errors[CALLS];
    uint64_t memory_total, memory_reserved, memory_used;
    int32_t gpu_instance, compute_instance;  // below 0: not supported
    struct gpm gpm;
    char uuid[96], name[96];
};

struct process {
    uint32_t pid, graphics, running, has_sample;
    uint32_t sm_percent, memory_percent;
    uint64_t memory_used, time_us;
};

struct card {
    int32_t lost;  // the code every call about the card answers with, looking it up included
    uint32_t hang;  // a bit for each call about this card that blocks while it is set
    int32_t errors[CALLS];
    uint32_t gpu_percent, memory_percent;
    int32_t temperature_celsius;
    uint32_t power_milliwatts;
    uint64_t memory_total, memory_reserved, memory_used;
    uint32_t mig, slots;
    int32_t minor;  // below 0: not supported
    struct gpm gpm;
    struct field fields[FIELDS];
    uint32_t pcie_kb_per_second[2];  // transmitted, received
    char uuid[96], name[96], pci_bus_id[32];
    struct slice slices[SLICES];
    struct process processes[PROCESSES];
};

struct state {
    uint32_t hang;      // a bit for each call that blocks while it is set
    uint64_t held_threads[THREADS];  // those whose call blocks now; 0 where there is none
    int32_t driver;     // the code every call answers with, once the driver is gone
    int32_t errors[CALLS];
    uint32_t delays_us[CALLS];
    uint64_t calls[CALLS];
    uint32_t flap_per_mille;      // how many of a thousand calls err, with one of these codes
    uint32_t flap_code_count;
    int32_t flap_codes[FLAP_CODES];
    uint64_t flap_state;          // of the generator that chooses them
    uint32_t lists_live;          // the driver finds cards between two initialisations too
    uint32_t listed_count;        // what the next initialisation finds, in the order of indices
    uint32_t listed[CARDS];
    int32_t gpm_samples;      // how many are allocated now
    uint32_t gpm_leaks;       // how many were left at a shutdown
    uint32_t gpm_mismatches;  // how often samples of two GPUs or instances, or in the wrong order, were compared
    struct card cards[CARDS];
};

// For the mirror to compare itself with.
const uint32_t fake_nvml_state_bytes = sizeof(struct state);
const uint32_t fake_nvml_calls = CALLS;

static struct state *state;
static char hanging_path[4096];  // a FIFO that gets one byte when a call begins to hang

static uint32_t references;
// The driver looks for cards when it is initialised, and not again. Handles carry the number of the
// initialisation they came from, so that one that outlived it is refused here and not only in production.
static uint32_t generation;
static uint32_t listed_count;
static uint32_t listed[CARDS];

__attribute__((constructor)) static void load(void)
{
    const char *path = getenv("FAKE_NVML_STATE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, flags, file, 0);
    if (state == MAP_FAILED)
        abort();
    if (file >= 0) {
        close(file);
        if (strlen(path) + sizeof ".hanging" > sizeof hanging_path)
            abort();
        strcpy(hanging_path, path);
        strcat(hanging_path, ".hanging");
    }
}

static uint32_t load32(uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

static int hangs(uint32_t *mask, enum call call) { return load32(mask) >> call & 1; }

// Notes that the calling thread is held, until 0 is written at the place that is returned.
static uint64_t *hold_thread(void)
{
    for (uint32_t number = 0; number < THREADS; number++) {
        uint64_t nobody = 0;
        if (__atomic_compare_exchange_n(&state->held_threads[number], &nobody, (uint64_t)(uintptr_t)pthread_self(), 0,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return &state->held_threads[number];
    }
    abort();
}

static void hang(uint32_t *mask, enum call call)
{
    uint64_t *place = hold_thread();
    int fifo = open(hanging_path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fifo >= 0) {
        if (write(fifo, "h", 1) != 1)
            abort();
        close(fifo);
    }
    while (hangs(mask, call))
        usleep(1000);
    __atomic_store_n(place, 0, __ATOMIC_SEQ_CST);
}

static void arrive(enum call call)
{
    __atomic_add_fetch(&state->calls[call], 1, __ATOMIC_SEQ_CST);
    if (state->delays_us[call])
        usleep(state->delays_us[call]);
    if (hangs(&state->hang, call))
        hang(&state->hang, call);
}

// The code with which this call errs though nothing is wrong, 0 for most calls. Many threads may ask.
static int flap(void)
{
    uint32_t share = load32(&state->flap_per_mille);
    if (!share || !state->flap_code_count)
        return SUCCESS;
    // SplitMix64: one addition to a shared counter, and the rest on a copy.
    uint64_t bits = __atomic_add_fetch(&state->flap_state, 0x9e3779b97f4a7c15u, __ATOMIC_SEQ_CST);
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    bits ^= bits >> 31;
    return bits % 1000 < share ? state->flap_codes[bits / 1000 % state->flap_code_count] : SUCCESS;
}

static int enter(enum call call)
{
    arrive(call);
    if (call != INIT && !load32(&references))
        return UNINITIALIZED;
    if (state->driver || state->errors[call])
        return state->driver ? state->driver : state->errors[call];
    return flap();
}

static uint32_t count_of_listed(void) { return state->lists_live ? state->listed_count : listed_count; }

static uint32_t slot_at(uint32_t index) { return state->lists_live ? state->listed[index] : listed[index]; }

static void *handle_of(uint32_t card, uint32_t slice)
{
    return (void *)(uintptr_t)((uint64_t)generation << 16 | (card + 1) << 8 | slice);
}

// The card behind a handle, and its slice where the handle is a slice's.
static int enter_card(void *handle, enum call call, struct card **card, struct slice **slice)
{
    int error = enter(call);
    if (error)
        return error;
    uint64_t bits = (uint64_t)(uintptr_t)handle;
    uint32_t number = bits >> 8 & 0xff, part = bits & 0xff;
    if (bits >> 16 != generation || !number || number > CARDS || part > SLICES)
        return INVALID_ARGUMENT;
    *card = &state->cards[number - 1];
    *slice = part ? &(*card)->slices[part - 1] : NULL;
    if (hangs(&(*card)->hang, call))
        hang(&(*card)->hang, call);
    if ((*card)->lost)
        return (*card)->lost;
    if (!*slice)
        return (*card)->errors[call];
    return (*slice)->present ? (*slice)->errors[call] : INVALID_ARGUMENT;
}

static int copy_text(char *to, unsigned size, const char *text)
{
    if (strlen(text) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(to, text);
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    return code == SUCCESS ? "Success" : "an error of the fake driver";
}

#ifndef WITHOUT_INIT
int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    int error = enter(INIT);
    if (error || __atomic_fetch_add(&references, 1, __ATOMIC_SEQ_CST))
        return error;
    generation++;
    listed_count = state->listed_count;
    memcpy(listed, state->listed, sizeof listed);
    return SUCCESS;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
#endif

int nvmlShutdown(void)
{
    arrive(SHUTDOWN);
    if (!load32(&references))
        return UNINITIALIZED;
    if (!__atomic_sub_fetch(&references, 1, __ATOMIC_SEQ_CST))
        state->gpm_leaks += (uint32_t)state->gpm_samples;
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    int error = enter(DRIVER_VERSION);
    return error ? error : copy_text(version, size, "999.99.99");
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int error = enter(COUNT);
    if (!error)
        *count = count_of_listed();
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    int error = enter(HANDLE);
    if (error)
        return error;
    if (index >= count_of_listed())
        return INVALID_ARGUMENT;
    struct card *card = &state->cards[slot_at(index)];
    if (hangs(&card->hang, HANDLE))
        hang(&card->hang, HANDLE);
    *handle = handle_of(slot_at(index), 0);
    return card->lost ? card->lost : card->errors[HANDLE];
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, UUID, &card, &slice);
    return error ? error : copy_text(uuid, size, slice ? slice->uuid : card->uuid);
}

int nvmlDeviceGetName(void *handle, char *name, unsigned size)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, NAME, &card, &slice);
    return error ? error : copy_text(name, size, slice ? slice->name : card->name);
}

int nvmlDeviceGetIndex(void *handle, unsigned *index)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, INDEX, &card, &slice);
    for (*index = 0; !error && *index < count_of_listed(); ++*index)
        if (card == &state->cards[slot_at(*index)])
            return SUCCESS;
    return error ? error : NOT_FOUND;
}

struct pci_info {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(void *handle, struct pci_info *info)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, PCI, &card, &slice);
    if (error)
        return error;
    memset(info, 0, sizeof *info);
    return copy_text(info->bus_id, sizeof info->bus_id, card->pci_bus_id);
}

static int number(int32_t known, unsigned *out)
{
    if (known < 0)
        return NOT_SUPPORTED;
    *out = (unsigned)known;
    return SUCCESS;
}

int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, MINOR, &card, &slice);
    return error ? error : number(card->minor, minor);
}

#ifndef WITHOUT_MIG
int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, GPU_INSTANCE, &card, &slice);
    return error ? error : number(slice ? slice->gpu_instance : -1, id);
}

int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, COMPUTE_INSTANCE, &card, &slice);
    return error ? error : number(slice ? slice->compute_instance : -1, id);
}
#endif

struct utilisation { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(void *handle, struct utilisation *rates)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, UTILISATION, &card, &slice);
    if (error)
        return error;
    if (slice || card->mig == MIG_ENABLED)
        return NOT_SUPPORTED;
    *rates = (struct utilisation){card->gpu_percent, card->memory_percent};
    return SUCCESS;
}

struct memory { unsigned long long total, free, used; };

int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, MEMORY, &card, &slice);
    if (error)
        return error;
    memory->total = slice ? slice->memory_total : card->memory_total;
    // The old call counts what the driver reserves for itself as used.
    memory->used = slice ? slice->memory_used + slice->memory_reserved : card->memory_used + card->memory_reserved;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

#ifndef WITHOUT_MEMORY_V2
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, MEMORY_V2, &card, &slice);
    if (error)
        return error;
    if (memory->version != (sizeof *memory | 2u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    memory->total = slice ? slice->memory_total : card->memory_total;
    memory->reserved = slice ? slice->memory_reserved : card->memory_reserved;
    memory->used = slice ? slice->memory_used : card->memory_used;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}
#endif

// Temperature and power are the board's, and a slice's handle answers with them: a reader that asks
// slices for them counts the board once for each, and its test must see that.
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, TEMPERATURE, &card, &slice);
    if (error)
        return error;
    if (sensor != 0)
        return INVALID_ARGUMENT;
    *celsius = (unsigned)card->temperature_celsius;
    return SUCCESS;
}

#ifndef WITHOUT_TEMPERATURE_V
struct temperature { unsigned version; int sensor, celsius; };

int nvmlDeviceGetTemperatureV(void *handle, struct temperature *temperature)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, TEMPERATURE_V, &card, &slice);
    if (error)
        return error;
    if (temperature->version != (sizeof *temperature | 1u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensor != 0)
        return INVALID_ARGUMENT;
    temperature->celsius = card->temperature_celsius;
    return SUCCESS;
}
#endif

int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, POWER, &card, &slice);
    if (!error)
        *milliwatts = card->power_milliwatts;
    return error;
}

#ifndef WITHOUT_MIG
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, MIG_MODE, &card, &slice);
    if (error)
        return error;
    if (slice || card->mig == MIG_UNSUPPORTED)
        return NOT_SUPPORTED;
    *current = *pending = card->mig == MIG_ENABLED;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, MIG_SLOTS, &card, &slice);
    if (!error)
        *count = card->slots;
    return error;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned slot, void **out)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, MIG_HANDLE, &card, &slice);
    if (error)
        return error;
    if (slice || slot >= card->slots)
        return INVALID_ARGUMENT;
    if (!card->slices[slot].present)
        return NOT_FOUND;
    *out = handle_of((uint32_t)(card - state->cards), slot + 1);
    return card->slices[slot].errors[MIG_HANDLE];
}
#endif

#ifndef WITHOUT_GPM
static const unsigned GPM_IDS[GPM_METRICS] = {1, 2, 5, 10, 20, 21, 60, 61};

struct gpm_sample {
    struct gpm counted;
    const void *owner;
    int is_filled;
};

struct gpm_support { unsigned version, is_supported; };

struct gpm_metric {
    unsigned id;
    int error;
    double value;
    char *names[3];
};

struct gpm_metrics {
    unsigned version, count;
    struct gpm_sample *first, *second;
    struct gpm_metric metrics[];
};

int nvmlGpmQueryDeviceSupport(void *handle, struct gpm_support *support)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, GPM_SUPPORT, &card, &slice);
    if (error)
        return error;
    if (support->version != 1)
        return ARGUMENT_VERSION_MISMATCH;
    support->is_supported = card->gpm.supported;
    return SUCCESS;
}

int nvmlGpmSampleAlloc(struct gpm_sample **sample)
{
    int error = enter(GPM_ALLOC);
    if (error)
        return error;
    if (!(*sample = calloc(1, sizeof **sample)))
        abort();
    __atomic_add_fetch(&state->gpm_samples, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}

int nvmlGpmSampleFree(struct gpm_sample *sample)
{
    int error = enter(GPM_FREE);
    if (error)
        return error;
    memset(sample, 0xff, sizeof *sample);  // a use after this is seen
    free(sample);
    __atomic_sub_fetch(&state->gpm_samples, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}

static int fill(struct gpm_sample *sample, const struct gpm *counted)
{
    *sample = (struct gpm_sample){*counted, counted, 1};
    return SUCCESS;
}

int nvmlGpmSampleGet(void *handle, struct gpm_sample *sample)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, GPM_SAMPLE, &card, &slice);
    if (error)
        return error;
    return slice || !card->gpm.supported || card->mig == MIG_ENABLED ? NOT_SUPPORTED : fill(sample, &card->gpm);
}

int nvmlGpmMigSampleGet(void *handle, unsigned gpu_instance, struct gpm_sample *sample)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, GPM_MIG_SAMPLE, &card, &slice);
    if (error)
        return error;
    if (slice || !card->gpm.supported)
        return NOT_SUPPORTED;
    for (int each = 0; each < SLICES; each++) {
        slice = &card->slices[each];
        if (slice->present && slice->gpu_instance == (int32_t)gpu_instance)
            return slice->errors[GPM_MIG_SAMPLE] ? slice->errors[GPM_MIG_SAMPLE] : fill(sample, &slice->gpm);
    }
    return NOT_FOUND;
}

int nvmlGpmMetricsGet(struct gpm_metrics *request)
{
    int error = enter(GPM_METRICS_GET);
    if (error)
        return error;
    if (request->version != 1)
        return ARGUMENT_VERSION_MISMATCH;
    const struct gpm_sample *first = request->first, *second = request->second;
    double seconds = second->counted.seconds - first->counted.seconds;
    if (!first->is_filled || !second->is_filled)
        return INVALID_ARGUMENT;
    if (first->owner != second->owner || first->counted.incarnation != second->counted.incarnation || seconds < 0)
        state->gpm_mismatches++;
    if (seconds < 0.1)
        return INVALID_ARGUMENT;
    for (unsigned each = 0; each < request->count; each++) {
        struct gpm_metric *metric = &request->metrics[each];
        metric->error = INVALID_ARGUMENT;
        for (int known = 0; known < GPM_METRICS; known++)
            if (GPM_IDS[known] == metric->id) {
                metric->error = second->counted.errors[known];
                metric->value = (second->counted.totals[known] - first->counted.totals[known]) / seconds;
            }
    }
    return SUCCESS;
}
#endif

#ifndef WITHOUT_FIELDS
// Total energy, NVLink links; NVLink data sent and received by all links; PCIe sent and received; NVLink 5 sent and
// received by one link. FIELD_IDS has as many as FIELDS; 0 is none.
static const unsigned FIELD_IDS[FIELDS] = {83, 91, 138, 139, 197, 198, 202, 204, 0, 0};

struct field_value {
    unsigned id, scope;
    long long timestamp, latency;
    int value_type, error;
    unsigned long long value;
};

static void answer(struct card *card, struct field_value *value)
{
    int is_of_one_link = value->id == 202 || value->id == 204;
    int needs_all_links = value->id == 138 || value->id == 139;
    value->error = NOT_SUPPORTED;
    for (int each = 0; each < FIELDS; each++)
        if (FIELD_IDS[each] && FIELD_IDS[each] == value->id) {
            struct field *field = &card->fields[each];
            value->value_type = (int)field->value_type;
            value->error = field->error;
            if (needs_all_links && value->scope != 0xffffffff)
                value->error = INVALID_ARGUMENT;
            if (is_of_one_link && value->scope >= card->fields[1].values[0])
                value->error = INVALID_ARGUMENT;
            if (!value->error)
                value->value = field->values[is_of_one_link ? value->scope : 0];
        }
}

int nvmlDeviceGetFieldValues(void *handle, int count, struct field_value *values)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, FIELD_VALUES, &card, &slice);
    if (error)
        return error;
    for (int each = 0; each < count; each++)
        answer(card, &values[each]);
    return SUCCESS;
}
#endif

int nvmlDeviceGetPcieThroughput(void *handle, int counter, unsigned *kb_per_second)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, PCIE_THROUGHPUT, &card, &slice);
    if (error)
        return error;
    if (slice || counter < 0 || counter > 1)
        return INVALID_ARGUMENT;
    *kb_per_second = card->pcie_kb_per_second[counter];
    return SUCCESS;
}

// The processes on a card. As in the driver, a caller without an array is told its size with an error.

struct process_info { unsigned pid; unsigned long long memory_used; unsigned gpu_instance, compute_instance; };

static int running_processes(struct card *card, uint32_t graphics, unsigned *count, struct process_info *out)
{
    unsigned room = *count, found = 0;
    for (unsigned each = 0; each < PROCESSES; each++) {
        struct process *process = &card->processes[each];
        if (!process->running || process->graphics != graphics)
            continue;
        if (out && found < room)
            out[found] = (struct process_info){process->pid, process->memory_used, 0xffffffffu, 0xffffffffu};
        found++;
    }
    *count = found;
    return found > room || (found && !out) ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct process_info *out)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, COMPUTE_PROCESSES, &card, &slice);
    return error ? error : running_processes(card, 0, count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, struct process_info *out)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, GRAPHICS_PROCESSES, &card, &slice);
    return error ? error : running_processes(card, 1, count, out);
}

struct process_sample { unsigned pid; unsigned long long time_us; unsigned sm, memory, encoder, decoder; };

int nvmlDeviceGetProcessUtilization(void *handle, struct process_sample *out, unsigned *count,
                                    unsigned long long last_seen_us)
{
    struct card *card;
    struct slice *slice;
    int error = enter_card(handle, PROCESS_UTILISATION, &card, &slice);
    if (error)
        return error;
    if (slice || card->mig == MIG_ENABLED)
        return NOT_SUPPORTED;
    unsigned room = *count, found = 0;
    for (unsigned each = 0; each < PROCESSES; each++) {
        struct process *process = &card->processes[each];
        if (!process->has_sample || process->time_us <= last_seen_us)
            continue;
        if (out && found < room)
            out[found] = (struct process_sample){process->pid, process->time_us, process->sm_percent,
                                                 process->memory_percent, 0, 0};
        found++;
    }
    *count = found;
    if (!found)
        return NOT_FOUND;
    return found > room || !out ? INSUFFICIENT_SIZE : SUCCESS;
}
