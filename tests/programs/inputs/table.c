/* What the compilers compile: a hash table of strings with its own test. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct entry *next;
    int value;
    char key[];
};

struct table {
    size_t bucket_count, entry_count;
    struct entry **buckets;
};

static size_t hash_of(const char *key) {
    size_t hash = 5381;
    while (*key)
        hash = hash * 33 ^ (unsigned char)*key++;
    return hash;
}

static void grow(struct table *table) {
    size_t count = table->bucket_count ? table->bucket_count * 2 : 8;
    struct entry **buckets = calloc(count, sizeof *buckets);
    for (size_t i = 0; i < table->bucket_count; i++)
        for (struct entry *entry = table->buckets[i], *next; entry; entry = next) {
            next = entry->next;
            struct entry **bucket = &buckets[hash_of(entry->key) % count];
            entry->next = *bucket;
            *bucket = entry;
        }
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = count;
}

static int *at(struct table *table, const char *key) {
    if (table->entry_count >= table->bucket_count)
        grow(table);
    struct entry **bucket = &table->buckets[hash_of(key) % table->bucket_count];
    for (struct entry *entry = *bucket; entry; entry = entry->next)
        if (!strcmp(entry->key, key))
            return &entry->value;
    struct entry *entry = malloc(sizeof *entry + strlen(key) + 1);
    strcpy(entry->key, key);
    entry->value = 0;
    entry->next = *bucket;
    *bucket = entry;
    table->entry_count++;
    return &entry->value;
}

int main(void) {
    struct table table = {0};
    char key[32];
    for (int i = 0; i < 10000; i++) {
        snprintf(key, sizeof key, "key%d", i * 37 % 1237);
        ++*at(&table, key);
    }
    printf("%zu entries, key5 %d times\n", table.entry_count, *at(&table, "key5"));
    for (size_t i = 0; i < table.bucket_count; i++)
        for (struct entry *entry = table.buckets[i], *next; entry; entry = next) {
            next = entry->next;
            free(entry);
        }
    free(table.buckets);
    return 0;
}
