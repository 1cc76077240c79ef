/* The heap's invariants, each with the text that a fault names it by.
 * May include: nothing. The texts fit struct moat_finding's `rule`: at most 47 characters. */
#ifndef MOAT_HEAP_RULE_H
#define MOAT_HEAP_RULE_H

#define MOAT_RULES(RULE)                                                                                               \
    RULE(NONE, "no rule is broken")                                                                                    \
    RULE(CONTROL, "the heap's control block is as it was written")                                                     \
    RULE(REGION, "a region's record is as it was written")                                                             \
    RULE(INSIDE, "a block lies in a region of the heap")                                                               \
    RULE(ALIGNED, "a block's address is aligned")                                                                      \
    RULE(HEADER, "a block's header is whole")                                                                          \
    RULE(USED, "a block that is freed is in use")                                                                      \
    RULE(FREE, "a block in a free list is free")                                                                       \
    RULE(NEXT_HEADER, "the next block's header is whole")                                                              \
    RULE(NEXT_FLAG, "the next block knows whether this one is free")                                                   \
    RULE(FOOTER, "a free block's footer is its size")                                                                  \
    RULE(LINK_NEXT, "a free block's next link is answered")                                                            \
    RULE(LINK_PREVIOUS, "a free block's previous link is answered")                                                    \
    RULE(BIN, "a free block is in the list of its size")                                                               \
    RULE(BIN_MAP, "the bin map marks the lists that are filled")                                                       \
    RULE(JOINED, "no two free blocks touch")                                                                           \
    RULE(SENTINEL, "a region ends with its sentinel")                                                                  \
    RULE(COUNTS, "the statistics fit the blocks")

#define MOAT_RULE_ENTRY(name, text) MOAT_RULE_##name,
enum moat_rule { MOAT_RULES(MOAT_RULE_ENTRY) MOAT_RULE_COUNT };
#undef MOAT_RULE_ENTRY

#endif
