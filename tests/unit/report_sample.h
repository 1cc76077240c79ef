/* Random reports for the tests of the record and the renderers, and text collected from a sink.
 * May include: guard/report/report.h, string.h. */
#ifndef MOAT_TESTS_UNIT_REPORT_SAMPLE_H
#define MOAT_TESTS_UNIT_REPORT_SAMPLE_H

#include "guard/report/report.h"

#include <string.h>

#define SAMPLE_SEED 0x9e3779b97f4a7c15u

/* xorshift64*: any run can be repeated from its seed. */
static inline uint64_t sample_next(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

static inline uint64_t sample_below(uint64_t *state, uint64_t limit) { return sample_next(state) % limit; }

/* Any bytes but NUL, often few of them. */
static inline void sample_string(uint64_t *state, char *text, size_t room) {
    size_t length = (size_t)sample_below(state, sample_below(state, 4) == 0 ? room : 12);
    for (size_t i = 0; i < length; i++) {
        text[i] = (char)(1 + sample_below(state, sample_below(state, 3) == 0 ? 255 : 126));
    }
    text[length] = '\0';
}

static inline void sample_block(uint64_t *state, struct moat_block_facts *block) {
    if (sample_below(state, 4) == 0) {
        return;
    }
    block->address = sample_next(state) >> sample_below(state, 60);
    block->size_bytes = sample_next(state) >> sample_below(state, 64);
    block->sequence = sample_next(state) >> sample_below(state, 64);
    block->allocation_stack = (uint32_t)sample_next(state);
    block->free_stack = (uint32_t)sample_next(state);
    block->allocation_thread = (uint16_t)sample_below(state, 4);
    block->free_thread = (uint16_t)sample_below(state, 4);
    block->state = (uint8_t)sample_below(state, MOAT_BLOCK_STATE_COUNT + 1);
    block->family = (uint8_t)sample_below(state, MOAT_FAMILY_COUNT + 1);
}

static inline void sample_finding(uint64_t *state, struct moat_finding *finding) {
    finding->kind = (uint8_t)sample_below(state, MOAT_KIND_COUNT + 1);
    finding->when = (uint8_t)sample_below(state, MOAT_WHEN_COUNT + 1);
    finding->place = (uint8_t)sample_below(state, MOAT_PLACE_COUNT + 1);
    finding->argument = (uint8_t)sample_below(state, MOAT_ARGUMENT_COUNT + 1);
    finding->caller_family = (uint8_t)sample_below(state, MOAT_FAMILY_COUNT + 1);
    finding->leak_class = (uint8_t)sample_below(state, MOAT_LEAK_CLASS_COUNT + 1);
    finding->is_write = (uint8_t)sample_below(state, 2);
    finding->header_lost = (uint8_t)sample_below(state, 2);
    finding->thread = (uint16_t)sample_below(state, 9);
    finding->found_stack = (uint32_t)sample_next(state);
    sample_block(state, &finding->block);
    sample_block(state, &finding->neighbour[0]);
    sample_block(state, &finding->neighbour[1]);
    finding->first = (int64_t)sample_next(state) >> sample_below(state, 64);
    finding->last = (int64_t)sample_next(state) >> sample_below(state, 64);
    uint64_t *numbers[] = {&finding->bad_count,          &finding->address,    &finding->argument_value[0],
                           &finding->argument_value[1],  &finding->whole_at,   &finding->bad_by,
                           &finding->leak_blocks,        &finding->leak_bytes, &finding->leak_indirect_blocks,
                           &finding->leak_indirect_bytes};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        *numbers[i] = sample_next(state) >> sample_below(state, 64);
    }
    struct moat_dump *dump = &finding->dump;
    dump->offset = (int64_t)sample_below(state, 200) * 8 - 400;
    dump->length = (uint32_t)sample_below(state, MOAT_DUMP_BYTES + 1);
    dump->bad = sample_next(state) & sample_next(state);
    dump->outside = sample_next(state);
    for (uint32_t i = 0; i < dump->length; i++) {
        dump->bytes[i] = (unsigned char)(sample_next(state) & (sample_below(state, 2) != 0 ? 0x7f : 0xff));
        dump->expected[i] = (unsigned char)sample_next(state);
    }
    sample_string(state, finding->owner, sizeof finding->owner);
    sample_string(state, finding->asked, sizeof finding->asked);
    sample_string(state, finding->rule, sizeof finding->rule);
}

/* Fills a report of any type with what that type carries. Values a little out of their range are among them. */
static inline void sample_report(uint64_t *state, struct moat_report *report) {
    memset(report, 0, sizeof *report);
    report->type = (uint8_t)(1 + sample_below(state, MOAT_REPORT_NOT_COVERED));
    report->type = sample_below(state, 2) != 0 ? MOAT_REPORT_FINDING : report->type;
    report->word_bits = sample_below(state, 2) != 0 ? 64 : 32;
    report->bug_id = (uint32_t)sample_next(state);
    report->repeats = sample_below(state, 3);
    report->pid = (int64_t)sample_below(state, 1 << 22);
    report->value[0] = sample_next(state);
    report->value[1] = sample_next(state);
    sample_string(state, report->program, sizeof report->program);
    sample_string(state, report->command, sizeof report->command);
    sample_string(state, report->note, sizeof report->note);
    if (report->type == MOAT_REPORT_SUMMARY) {
        uint64_t *numbers[] = {&report->summary.findings,
                               &report->summary.repeats,
                               &report->summary.suppressed,
                               &report->summary.leak_groups,
                               &report->summary.leak_definite_blocks,
                               &report->summary.leak_definite_bytes,
                               &report->summary.leak_indirect_blocks,
                               &report->summary.leak_indirect_bytes,
                               &report->summary.live_blocks,
                               &report->summary.live_bytes,
                               &report->summary.allocations};
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            *numbers[i] = sample_next(state) >> sample_below(state, 64);
        }
        report->summary.leak_outcome = (uint8_t)sample_below(state, MOAT_LEAKS_COULD_NOT_RUN + 2);
    }
    if (report->type != MOAT_REPORT_FINDING) {
        return;
    }
    sample_string(state, report->place_name, sizeof report->place_name);
    sample_finding(state, &report->finding);
    report->module_count = (uint16_t)sample_below(state, sample_below(state, 8) == 0 ? MOAT_REPORT_MODULES_MAX + 1 : 3);
    for (uint16_t i = 0; i < report->module_count; i++) {
        struct moat_module *module = &report->modules[i];
        sample_string(state, module->path, sizeof module->path);
        module->bias = sample_next(state);
        module->build_id_bytes = (uint8_t)sample_below(state, MOAT_BUILD_ID_BYTES + 1);
        for (uint8_t k = 0; k < module->build_id_bytes; k++) {
            module->build_id[k] = (uint8_t)sample_next(state);
        }
    }
    for (unsigned which = 0; which < MOAT_STACK_COUNT; which++) {
        struct moat_stack *stack = &report->stacks[which];
        stack->frame_count = (uint16_t)sample_below(state, sample_below(state, 8) == 0 ? MOAT_STACK_FRAMES_MAX + 1 : 5);
        stack->incomplete = (uint8_t)sample_below(state, 2);
        for (uint16_t i = 0; i < stack->frame_count; i++) {
            struct moat_frame *frame = &stack->frames[i];
            frame->pc = sample_next(state) >> sample_below(state, 64);
            uint16_t module = (uint16_t)sample_below(state, report->module_count + 1u);
            frame->module = module < report->module_count ? module : MOAT_NO_MODULE;
            frame->exact = (uint8_t)sample_below(state, 2);
            frame->own = (uint8_t)(sample_below(state, 8) == 0);
        }
    }
}

/* ---- what a renderer wrote ---- */

#define SAMPLE_TEXT_BYTES (2u << 20)

struct sample_text {
    char bytes[SAMPLE_TEXT_BYTES];
    size_t length;
};

static inline void sample_collect(void *context, const char *text, size_t length_bytes) {
    struct sample_text *collected = context;
    if (SAMPLE_TEXT_BYTES - 1 - collected->length >= length_bytes) {
        memcpy(collected->bytes + collected->length, text, length_bytes);
        collected->length += length_bytes;
        collected->bytes[collected->length] = '\0';
    }
}

static inline struct moat_sink sample_sink(struct sample_text *collected) {
    collected->length = 0;
    collected->bytes[0] = '\0';
    return (struct moat_sink){.write = sample_collect, .context = collected};
}

#endif
