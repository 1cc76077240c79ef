/* Prints the options' defaults as this build has them.
 * May include: guard/option, the C library. */
#include "guard/option/option.h"

#include <stdio.h>

static void print(const struct moat_option_info *info, const void *member) {
    char room[MOAT_OPTION_NUMBER_BYTES];
    switch ((enum moat_option_type)info->type) {
    case MOAT_OPTION_IS_NUMBER:
        printf("%s=%s\n", info->name, moat_option_number_text(*(const uint64_t *)member, info->unit, room));
        break;
    case MOAT_OPTION_IS_BOOL:
        printf("%s=%d\n", info->name, *(const bool *)member);
        break;
    case MOAT_OPTION_IS_CHOICE:
        moat_option_word(info->words, *(const uint8_t *)member, room, sizeof room);
        printf("%s=%s\n", info->name, room);
        break;
    case MOAT_OPTION_IS_STRING:
        printf("%s=%s\n", info->name, *(const char *const *)member);
        break;
    }
}

int main(void) {
    char error[MOAT_OPTION_ERROR_BYTES];
    struct moat_options options;
    if (!moat_options_build(&options, error)) {
        printf("error: %s\n", error);
        return 1;
    }
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        print(&moat_option_table[i], (const char *)&options + moat_option_table[i].offset);
    }
    return options.set != 0;
}
