/* What the heap says of itself: glibc's statistics and settings, and the functions of moat.h. May include: process.h, the port and
 * POSIX headers. */
#define _GNU_SOURCE
#include "guard/entry/process.h"
#include "guard/port/linux/output.h"
#include "guard/port/linux/text.h"
#include "moat.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>

/* ---- numbers ----------------------------------------------------------------------------------------------------------- */

/* One shard's numbers, or the sums of all. */
struct tally {
    size_t mapped_bytes; /* from the system */
    size_t live_blocks;
    size_t live_bytes;  /* as requested, so that differences show what the program did */
    size_t held_blocks; /* in quarantine */
    size_t held_bytes;
    size_t free_blocks;
    size_t largest_free_bytes;
    size_t own_pages_blocks; /* live blocks with pages of their own, which are not in the numbers above */
    size_t own_pages_bytes;
    size_t own_pages_peak_bytes;
};

/* Context: the shard's lock held. */
static struct tally tally_of(struct moat_shard *shard) {
    const struct moat_guard_counts *counts = &shard->guard.counts;
    if (shard == &moat_process.large) {
        return (struct tally){.own_pages_blocks = (size_t)counts->live_blocks,
                              .own_pages_bytes = (size_t)counts->live_bytes,
                              .own_pages_peak_bytes = (size_t)counts->peak_bytes};
    }
    struct moat_heap_statistics statistics;
    moat_heap_statistics(shard->heap, &statistics);
    return (struct tally){.mapped_bytes = statistics.region_bytes,
                          .live_blocks = (size_t)counts->live_blocks,
                          .live_bytes = (size_t)counts->live_bytes,
                          .held_blocks = shard->guard.near.count + shard->guard.far.count,
                          .held_bytes = shard->guard.near.held_bytes + shard->guard.far.held_bytes,
                          .free_blocks = statistics.free_count,
                          .largest_free_bytes = statistics.free_bytes_largest};
}

static void tally_add(struct tally *sum, const struct tally *one) {
    sum->mapped_bytes += one->mapped_bytes;
    sum->live_blocks += one->live_blocks;
    sum->live_bytes += one->live_bytes;
    sum->held_blocks += one->held_blocks;
    sum->held_bytes += one->held_bytes;
    sum->free_blocks += one->free_blocks;
    sum->largest_free_bytes =
        one->largest_free_bytes > sum->largest_free_bytes ? one->largest_free_bytes : sum->largest_free_bytes;
    sum->own_pages_blocks += one->own_pages_blocks;
    sum->own_pages_bytes += one->own_pages_bytes;
    sum->own_pages_peak_bytes += one->own_pages_peak_bytes;
}

/* Everything at one look; the shards are looked at one after the other. */
struct survey {
    size_t heap_count;
    struct tally heaps[MOAT_SHARDS_MAX];
    struct tally total;
};

static void survey_shard(void *context, struct moat_shard *shard) {
    struct survey *survey = context;
    if (shard->guarded != NULL) {
        return; /* not malloc's */
    }
    moat_lock_take(&shard->lock);
    struct tally one = tally_of(shard);
    moat_lock_give(&shard->lock);
    tally_add(&survey->total, &one);
    if (shard != &moat_process.large && survey->heap_count < MOAT_SHARDS_MAX) {
        survey->heaps[survey->heap_count++] = one;
    }
}

static void survey_take(struct survey *survey) {
    survey->heap_count = 0;
    survey->total = (struct tally){.mapped_bytes = 0};
    moat_thread_self(); /* starts Moat where nobody has allocated yet */
    moat_shards_each(survey_shard, survey);
}

/* What is mapped and neither live nor held. Red zones, headers and rounding of live blocks count as free, as in glibc's own numbers
 * what a block cannot be blamed for does. */
static size_t free_bytes(const struct tally *tally) {
    size_t used_bytes = tally->live_bytes + tally->held_bytes;
    return tally->mapped_bytes > used_bytes ? tally->mapped_bytes - used_bytes : 0;
}

MOAT_EXPORT struct mallinfo2 mallinfo2(void) {
    struct survey survey;
    survey_take(&survey);
    const struct tally *total = &survey.total;
    return (struct mallinfo2){.arena = total->mapped_bytes,
                              .ordblks = total->free_blocks,
                              .smblks = total->held_blocks,
                              .hblks = total->own_pages_blocks,
                              .hblkhd = total->own_pages_bytes,
                              .fsmblks = total->held_bytes,
                              .uordblks = total->live_bytes,
                              .fordblks = free_bytes(total) + total->held_bytes,
                              .keepcost = total->largest_free_bytes};
}

/* The old struct's ints wrap, as glibc's do. */
MOAT_EXPORT struct mallinfo mallinfo(void) {
    struct mallinfo2 wide = mallinfo2();
    return (struct mallinfo){.arena = (int)wide.arena,
                             .ordblks = (int)wide.ordblks,
                             .smblks = (int)wide.smblks,
                             .hblks = (int)wide.hblks,
                             .hblkhd = (int)wide.hblkhd,
                             .usmblks = (int)wide.usmblks,
                             .fsmblks = (int)wide.fsmblks,
                             .uordblks = (int)wide.uordblks,
                             .fordblks = (int)wide.fordblks,
                             .keepcost = (int)wide.keepcost};
}

/* ---- reports of statistics --------------------------------------------------------------------------------------------- */

#define MOAT_STATS_HEAP_BYTES 128u
#define MOAT_STATS_TOTAL_BYTES 512u

static void add_line(struct moat_text_buffer *text, const char *label, size_t value) {
    char digits[24];
    struct moat_text_buffer number = moat_text_begin(digits, sizeof digits);
    moat_text_add_number(&number, value, 10);
    moat_text_add(text, label);
    moat_text_add(text, " = ");
    for (size_t width = number.length; width < 10; width++) {
        moat_text_add(text, " ");
    }
    moat_text_add(text, digits);
    moat_text_add(text, "\n");
}

MOAT_EXPORT void malloc_stats(void) {
    struct survey survey;
    char room[MOAT_SHARDS_MAX * MOAT_STATS_HEAP_BYTES + MOAT_STATS_TOTAL_BYTES];
    struct moat_text_buffer text = moat_text_begin(room, sizeof room);
    survey_take(&survey);
    const struct tally *total = &survey.total;
    for (size_t i = 0; i < survey.heap_count; i++) {
        moat_text_add(&text, "Arena ");
        moat_text_add_number(&text, i, 10);
        moat_text_add(&text, ":\n");
        add_line(&text, "system bytes    ", survey.heaps[i].mapped_bytes);
        add_line(&text, "in use bytes    ", survey.heaps[i].live_bytes);
    }
    moat_text_add(&text, "Total (incl. mmap):\n");
    add_line(&text, "system bytes    ", total->mapped_bytes + total->own_pages_bytes);
    add_line(&text, "in use bytes    ", total->live_bytes + total->own_pages_bytes);
    add_line(&text, "mmap regions    ", total->own_pages_blocks);
    add_line(&text, "max mmap bytes  ", total->own_pages_peak_bytes);
    add_line(&text, "quarantine bytes", total->held_bytes);
    moat_output_write(text.start, text.length);
}

static void print_tally(FILE *file, const struct tally *tally) {
    fprintf(file,
            "<total type=\"fast\" count=\"%zu\" size=\"%zu\"/>\n"
            "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n",
            tally->held_blocks, tally->held_bytes, tally->free_blocks, free_bytes(tally));
}

static void print_system(FILE *file, size_t bytes) {
    fprintf(file,
            "<system type=\"current\" size=\"%zu\"/>\n"
            "<system type=\"max\" size=\"%zu\"/>\n"
            "<aspace type=\"total\" size=\"%zu\"/>\n"
            "<aspace type=\"mprotect\" size=\"%zu\"/>\n",
            bytes, bytes, bytes, bytes);
}

/* What glibc has no elements for: where the memory went that is not the program's. */
static void print_overhead(FILE *file, const struct moat_statistics *now) {
    const struct {
        const char *part;
        uint64_t size_bytes;
    } parts[] = {{"headers", now->header_bytes},
                 {"zones", now->zone_bytes},
                 {"quarantine", now->quarantine_bytes},
                 {"stacks", now->stack_bytes},
                 {"map", now->map_bytes}};
    fprintf(file, "<moat version=\"%s\">\n", MOAT_VERSION);
    fprintf(file, "<requested count=\"%" PRIu64 "\" size=\"%" PRIu64 "\" peak=\"%" PRIu64 "\"/>\n", now->live_blocks,
            now->live_bytes, now->peak_bytes);
    fprintf(file, "<used size=\"%" PRIu64 "\" peak=\"%" PRIu64 "\"/>\n", now->used_bytes, now->used_peak_bytes);
    fprintf(file, "<free size=\"%" PRIu64 "\" largest=\"%" PRIu64 "\" fragmentation=\"%u.%u\"/>\n", now->free_bytes,
            now->largest_free_bytes, now->fragmentation_permille / 10, now->fragmentation_permille % 10);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        fprintf(file, "<overhead part=\"%s\" size=\"%" PRIu64 "\"/>\n", parts[i].part, parts[i].size_bytes);
    }
    fprintf(file, "<own size=\"%" PRIu64 "\"/>\n</moat>\n", now->own_bytes);
}

MOAT_EXPORT int malloc_info(int options, FILE *file) {
    if (options != 0) {
        return EINVAL;
    }
    struct survey survey;
    struct moat_statistics now;
    survey_take(&survey); /* before anything is printed, which may allocate */
    moat_stats(&now);
    fputs("<malloc version=\"1\">\n", file);
    for (size_t i = 0; i < survey.heap_count; i++) {
        fprintf(file, "<heap nr=\"%zu\">\n<sizes>\n</sizes>\n", i);
        print_tally(file, &survey.heaps[i]);
        print_system(file, survey.heaps[i].mapped_bytes);
        fputs("</heap>\n", file);
    }
    print_tally(file, &survey.total);
    fprintf(file, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n", survey.total.own_pages_blocks,
            survey.total.own_pages_bytes);
    print_system(file, survey.total.mapped_bytes + survey.total.own_pages_bytes);
    print_overhead(file, &now);
    fputs("</malloc>\n", file);
    return 0;
}

/* ---- settings ---------------------------------------------------------------------------------------------------------- */

/* glibc's own bound of M_MXFAST, so that a program that asks for too much is told so here too. */
#define MOAT_GLIBC_FAST_BYTES_MAX ((int)(80 * sizeof(size_t) / 4))

/* Sets an option for mallopt, within its range. One that the user of Moat gave stays as it is: mallopt is the program's. */
static void tune(enum moat_option_id id, uint64_t value) {
    const struct moat_option_info *info = &moat_option_table[id];
    moat_thread_self(); /* starts Moat where nobody has allocated yet */
    if (!moat_option_is_set(&moat_process.options, id)) {
        value = value < info->least ? info->least : value > info->most ? info->most : value;
        *(uint64_t *)(void *)((char *)&moat_process.options + info->offset) = value;
        moat_tune_apply_to_all();
    }
}

/* What mallopt sets and Moat has too is set; all else is accepted and changes nothing: it is about how glibc's own heap works.
 * Gives 1 for what glibc would take, 0 for what it would not and for parameters unknown to it. */
MOAT_EXPORT int mallopt(int parameter, int value) {
    switch (parameter) {
    case M_MXFAST:
        return value >= 0 && value <= MOAT_GLIBC_FAST_BYTES_MAX;
    case M_MMAP_THRESHOLD: /* to glibc a negative one is very large */
        tune(MOAT_OPTION_ID_large, value < 0 ? UINT64_MAX : (uint64_t)value);
        return 1;
    case M_TRIM_THRESHOLD: /* -1: never */
        tune(MOAT_OPTION_ID_high_water, value < 0 ? UINT64_MAX : (uint64_t)value);
        return 1;
    case M_PERTURB: /* 0: nothing is asked for, and Moat fills as it does */
        if ((value & 0xff) != 0) {
            tune(MOAT_OPTION_ID_fill, UINT64_MAX);
            tune(MOAT_OPTION_ID_fill_byte, ~(unsigned)value & 0xffu);
        }
        return 1;
    case M_TOP_PAD:
    case M_MMAP_MAX:
    case M_CHECK_ACTION:
    case M_ARENA_TEST:
    case M_ARENA_MAX:
    case M_NLBLKS:
    case M_GRAIN:
    case M_KEEP:
        return 1;
    default:
        return 0;
    }
}

struct trim {
    size_t keep_bytes;
    size_t given_back_bytes;
};

static void trim_shard(void *context, struct moat_shard *shard) {
    struct trim *trim = context;
    if (shard == &moat_process.large || shard->guarded != NULL) {
        return; /* its free memory has gone back already */
    }
    moat_lock_take(&shard->lock);
    trim->given_back_bytes += moat_heap_trim(shard->heap, trim->keep_bytes);
    moat_lock_give(&shard->lock);
}

MOAT_EXPORT int malloc_trim(size_t pad) {
    struct trim trim = {.keep_bytes = pad};
    moat_thread_self();
    moat_shards_each(trim_shard, &trim);
    return trim.given_back_bytes != 0;
}

MOAT_EXPORT size_t malloc_usable_size(void *block) { return moat_block_size(block); }

/* ---- moat.h ------------------------------------------------------------------------------------------------------------ */

MOAT_EXPORT const char *moat_version(void) { return MOAT_VERSION; }

MOAT_EXPORT size_t moat_check(void) {
    int error = errno;
    bool corrupt = false;
    size_t found = (size_t)moat_block_sweep(MOAT_WHEN_CHECK, MOAT_CALLER, false, &corrupt);
    if (corrupt) {
        moat_finding_act();
    }
    errno = error;
    return found;
}
