/* Operators new and delete that a library keeps to itself. May include: process.h, the port's symbol tables.
 *
 * A library with the C++ run-time linked in statically may bind `operator new` to its own, which calls malloc, while what it makes
 * is deleted elsewhere by ours. The families differ then, and yet all is well. The name of malloc's caller tells. */
#include "guard/entry/process.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/symtab.h"

/* Callers of malloc and free whose names were looked up: a program that does this does it all the time. */
#define MOAT_OPERATORS_KNOWN 64u

struct known_caller {
    uint64_t pc;
    uint8_t family;
};

/* A caller that is no operator. */
#define MOAT_NO_OPERATOR UINT8_MAX

/* Under the report lock. */
static struct known_caller known[MOAT_OPERATORS_KNOWN];

static bool starts(const char *name, const char *with) { return strncmp(name, with, strlen(with)) == 0; }

static uint8_t family_of_name(const char *name) {
    bool single = starts(name, "_Znw") || starts(name, "_Zdl");
    bool array = starts(name, "_Zna") || starts(name, "_Zda");
    if (!single && !array) {
        return MOAT_NO_OPERATOR;
    }
    bool aligned = strstr(name, "St11align_val_t") != NULL;
    return single ? (aligned ? MOAT_FAMILY_NEW_ALIGNED : MOAT_FAMILY_NEW)
                  : (aligned ? MOAT_FAMILY_NEW_ARRAY_ALIGNED : MOAT_FAMILY_NEW_ARRAY);
}

static uint8_t family_of_caller(const struct moat_depot_node *node) {
    struct known_caller *slot = &known[(node->pc ^ node->pc >> 6) % MOAT_OPERATORS_KNOWN];
    if (slot->pc != node->pc) {
        const struct moat_symboliser *symboliser = moat_symtab_symboliser();
        struct moat_location location = {.function = ""};
        struct moat_frame frame = {.pc = node->pc, .module = 0};
        struct moat_module module;
        uint8_t family = MOAT_NO_OPERATOR;
        if (node->module != MOAT_NO_MODULE) {
            moat_module_get(node->module, &module);
            if (symboliser->locate(symboliser->context, &frame, &module, &location, 1) != 0 &&
                location.function != NULL) {
                family = family_of_name(location.function);
            }
        }
        *slot = (struct known_caller){node->pc, family};
    }
    return slot->family;
}

/* What the program asked for: the operator's family where malloc or free was called by one. */
static unsigned family_meant(unsigned family, uint32_t stack) {
    struct moat_depot_node node;
    if ((family != MOAT_FAMILY_MALLOC && family != MOAT_FAMILY_ALIGNED) ||
        !moat_depot_frame(&moat_process.depot, stack, &node)) {
        return family;
    }
    uint8_t meant = family_of_caller(&node);
    return meant == MOAT_NO_OPERATOR ? family : meant;
}

bool moat_operators_fit(const struct moat_finding *finding) {
    return finding->kind == MOAT_ALLOC_DEALLOC_MISMATCH && finding->argument == MOAT_ARGUMENT_NONE &&
           family_meant(finding->block.family, finding->block.allocation_stack) ==
               family_meant(finding->caller_family, finding->found_stack);
}
