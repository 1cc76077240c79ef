/* Making a heap: choosing the control block's shape and laying out the first region.
 * May include: control.h, bins.h and freestanding headers, string.h for memset. */
#include "bins.h"

#include <string.h>

#if UINTPTR_MAX > 0xffffffffu
#define GROW_BYTES_DEFAULT ((size_t)4 << 20)
#define CONTROL_PART 32
#define CONTROL_BASE 256
#else
#define GROW_BYTES_DEFAULT ((size_t)4 << 10)
#define CONTROL_PART 64
#define CONTROL_BASE 128
#endif
/* From this size on a heap is on a host and may come to have many regions. */
#define REMEMBER_BYTES ((size_t)1 << 20)

static size_t control_bytes_of(uint32_t geometry) {
    size_t words = moat_geometry_last_bin(geometry) + 1 + moat_geometry_map_words(geometry);
    return sizeof(struct moat_heap) + words * sizeof(uintptr_t) +
           moat_geometry_remembered(geometry) * sizeof(struct moat_remembered);
}

/* The finest bins whose control block stays within its share of the first region. */
static uint32_t choose_geometry(size_t bytes, const struct moat_heap_config *config) {
    size_t share = bytes / CONTROL_PART + CONTROL_BASE;
    size_t largest = config->largest_block_bytes != 0 ? config->largest_block_bytes : bytes;
    uint32_t remembered_log2 = bytes >= REMEMBER_BYTES && config->source != NULL ? MOAT_REMEMBERED_LOG2 : 0;
    if (largest > MOAT_BLOCK_REQUEST_MAX)
        largest = MOAT_BLOCK_REQUEST_MAX;
    if (largest < MOAT_BLOCK_MIN)
        largest = MOAT_BLOCK_MIN;
    for (uint32_t bins_log2 = MOAT_BINS_LOG2_MAX;; bins_log2--) {
        uint32_t last_bin = moat_bin_for(bins_log2, moat_block_size_for(largest));
        uint32_t geometry = moat_geometry(bins_log2, remembered_log2, last_bin);
        if (bins_log2 == 0 || control_bytes_of(geometry) <= share)
            return geometry;
    }
}

size_t moat_heap_control_bytes(size_t bytes, const struct moat_heap_config *config) {
    static const struct moat_heap_config none;
    return control_bytes_of(choose_geometry(bytes, config != NULL ? config : &none));
}

static void set_up(struct moat_heap *heap, uint32_t geometry, const struct moat_heap_config *config) {
    memset(heap, 0, control_bytes_of(geometry));
    heap->geometry = geometry;
    heap->geometry_inverse = ~geometry;
    heap->key = config->key != 0 ? config->key : moat_mix(MOAT_MIX_FACTOR, (uintptr_t)heap);
    heap->source = config->source;
    heap->grow_bytes = config->grow_bytes != 0 ? config->grow_bytes : GROW_BYTES_DEFAULT;
    heap->check = moat_heap_checksum(heap);
    moat_heap_keep(heap, config->keep_bytes);
}

/* Makes a heap in a region that starts and ends aligned. */
static struct moat_heap *create_inside(uintptr_t start, uintptr_t end, const struct moat_heap_config *config,
                                       uintptr_t from_source) {
    uint32_t geometry = choose_geometry(end - start, config);
    uintptr_t control_size = moat_block_size_for(control_bytes_of(geometry));
    if (end - start < MOAT_REGION_LEAD + control_size + MOAT_BLOCK_MIN)
        return NULL;
    struct moat_heap *heap = (struct moat_heap *)(start + MOAT_REGION_LEAD);
    set_up(heap, geometry, config);
    struct moat_region *region = moat_region_at(start);
    moat_region_sign(heap, region, end | from_source, 0);
    moat_region_link(heap, NULL, start);
    struct moat_extent extent = moat_region_extent(region);
    uintptr_t first = extent.low + control_size;
    moat_block_set_meta(heap->key, extent.low, control_size | MOAT_BLOCK_FIXED);
    moat_block_set_meta(heap->key, end, MOAT_BLOCK_FIXED | MOAT_BLOCK_BEFORE_FREE);
    heap->block_bytes = end - first;
    moat_bin_insert(heap, first, end - first, extent);
    return heap;
}

struct moat_heap *moat_heap_create(void *buffer, size_t bytes, const struct moat_heap_config *config) {
    static const struct moat_heap_config none;
    uintptr_t begin = (uintptr_t)buffer;
    uintptr_t start = (begin + MOAT_BLOCK_ALIGN - 1) & ~(MOAT_BLOCK_ALIGN - 1);
    uintptr_t end = (begin + bytes) & ~(MOAT_BLOCK_ALIGN - 1);
    if (begin == 0 || begin + bytes < begin || start < begin || end < start)
        return NULL;
    return create_inside(start, end, config != NULL ? config : &none, 0);
}

struct moat_heap *moat_heap_create_apart(void *control, size_t control_bytes, void *buffer, size_t bytes,
                                         const struct moat_heap_config *config) {
    static const struct moat_heap_config none;
    const struct moat_heap_config *used = config != NULL ? config : &none;
    uint32_t geometry = choose_geometry(bytes, used);
    if (control == NULL || (uintptr_t)control % _Alignof(struct moat_heap) != 0 ||
        control_bytes < control_bytes_of(geometry))
        return NULL;
    struct moat_heap *heap = control;
    set_up(heap, geometry, used);
    return buffer == NULL || moat_heap_add_region(heap, buffer, bytes) ? heap : NULL;
}

struct moat_heap *moat_heap_create_from_source(const struct moat_heap_config *config) {
    if (config == NULL || config->source == NULL)
        return NULL;
    const struct moat_source *source = config->source;
    size_t least = MOAT_HEAP_BUFFER_BYTES_MIN;
    size_t ask = config->grow_bytes != 0 ? config->grow_bytes : GROW_BYTES_DEFAULT;
    size_t got = 0;
    void *memory = source->acquire(source->context, ask > least ? ask : least, &got);
    if (memory == NULL)
        memory = source->acquire(source->context, least, &got);
    if (memory == NULL)
        return NULL;
    uintptr_t start = ((uintptr_t)memory + MOAT_BLOCK_ALIGN - 1) & ~(MOAT_BLOCK_ALIGN - 1);
    uintptr_t end = ((uintptr_t)memory + got) & ~(MOAT_BLOCK_ALIGN - 1);
    struct moat_heap *heap = create_inside(start, end, config, MOAT_REGION_FROM_SOURCE);
    if (heap == NULL && source->release != NULL)
        (void)source->release(source->context, memory, got);
    return heap;
}
