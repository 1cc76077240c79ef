-- A little of everything that makes sqlite3 allocate.
create table item (id integer primary key, name text, price real);
create index item_name on item (name);
with recursive counter (n) as (select 1 union all select n + 1 from counter where n < 50)
insert into item (name, price) select 'item ' || n, n * 1.5 from counter;
begin;
update item set price = price * 2 where id % 3 = 0;
savepoint half;
delete from item where id > 40;
rollback to half;
commit;
select count(*), sum(price), group_concat(name, ', ') from item where price > 20;
select a.name, b.name from item a join item b on b.id = a.id + 1 where a.price > 60 order by b.name desc limit 5;
select printf('%08.3f', avg(price)), upper(hex(zeroblob(4))), json_extract('{"a":[1,2,3]}', '$.a[1]') from item;
